"""The report in headless Chromium: what it shows, asks for and says, on each kind of page."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from support.groups import make_completion, make_group, write_store
from support.pictures import PAGE_SIZES, chromium, headless, make_larger_run, open_page
from support.run_folder import HOSTILE, NUM_PROBLEMS, make_run

from fastdistill_ray.report.browser import MOST_GROUPS
from fastdistill_ray.report.sections import write_report
from fastdistill_ray.run_files import GRAPH, RECIPE

pytestmark = pytest.mark.skipif(not chromium(), reason="no chromium here: apt-get install chromium")
BAD = "</script><script>document.title = 'broken'</script>"
TOO_WIDE = """() => [...document.querySelectorAll("table, svg, pre, figure, input, select")]
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => one.tagName + " of " + one.closest("section")?.id)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless() as found:
        yield found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(make_run(tmp_path_factory.mktemp("small") / "run"))
    return Path(write_report(str(path)))


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of twenty models."""
    return make_larger_run(tmp_path_factory.mktemp("twenty") / "run", 15) / "report.html"


@pytest.fixture
def page(browser: Browser, small: Path) -> Iterator[Page]:
    found = open_page(browser, small)
    yield found
    found.context.close()


def count(page: Page) -> str:
    return page.locator(".found").inner_text()


def choose(page: Page, label: str, option: str) -> None:
    page.locator("label", has_text=label).locator("select").select_option(option)


@pytest.mark.parametrize("size", PAGE_SIZES)
def test_page_asks_for_nothing_and_says_nothing_to_the_console(
    browser: Browser, small: Path, size: str
) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    width, height = PAGE_SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    page.goto(small.as_uri())
    page.locator("details.group summary").first.click()
    page.wait_for_load_state("networkidle")
    context.close()
    assert asked == [small.as_uri()]
    assert said == []


def test_groups_are_searched_filtered_and_sorted(page: Page) -> None:
    total = NUM_PROBLEMS["train"]
    assert count(page) == f"{total} of {total} groups"
    rows = page.locator("details.group")
    assert rows.count() == 20, "the others when they are asked for"
    page.locator(".more").click()
    assert rows.count() == 40
    choose(page, "Verdicts", "all correct")
    all_correct = rows.count()
    assert 0 < all_correct < total
    assert set(page.locator(".fact", has_text="correct").all_inner_texts()) == {"8 of 8 correct"}
    choose(page, "Verdicts", "any verdicts")
    choose(page, "Kept", "dropped: too few correct")
    assert 0 < int(count(page).split()[0]) < total
    assert all("dropped: too few correct" in text for text in rows.all_inner_texts())
    choose(page, "Kept", "kept or dropped")
    choose(page, "Sort", "most correct first")
    shares = [
        int(text.split()[0]) for text in page.locator(".fact:has-text(' of 8')").all_inner_texts()
    ]
    assert shares == sorted(shares, reverse=True) and shares[0] == 8
    page.locator("input[type=search]").fill('alert("$x$")')
    assert int(count(page).split()[0]) > 0
    page.locator("input[type=search]").fill("nowhere to be found")
    assert count(page) == f"0 of {total} groups" and rows.count() == 0


def test_an_opened_group_shows_completions_with_their_numbers(page: Page) -> None:
    group = page.locator("details.group").first
    assert group.locator(".answer").count() == 0, "made when it is opened"
    group.locator("summary").first.click()
    answers = group.locator(".answer")
    assert answers.count() == 8
    facts = answers.first.locator("summary").inner_text()
    for word in ("reward", "advantage", "weight", "tokens", "format"):
        assert word in facts
    assert HOSTILE in group.locator(".question").inner_text()
    assert "Reference answer" in group.inner_text() and "signals: none" in group.inner_text()


def test_without_scripts_some_groups_and_all_tables_are_there(
    browser: Browser, small: Path
) -> None:
    page = open_page(browser, small, java_script_enabled=False)
    assert page.locator(".plain article").count() == 3
    assert not page.locator(".tools").is_visible()
    assert page.locator("table").count() > 10
    page.context.close()


@pytest.mark.parametrize("name", ["small", "twenty"])
def test_nothing_sticks_out_on_a_phone_by_day_and_by_night(
    browser: Browser, name: str, request: pytest.FixtureRequest
) -> None:
    file = request.getfixturevalue(name)
    for is_dark in (False, True):
        page = open_page(browser, file, "phone", is_dark=is_dark)
        page.locator("details.group summary").first.click()
        widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1]
        colours = page.evaluate(
            "['backgroundColor', 'color'].map((one) => getComputedStyle(document.body)[one])"
        )
        bright = [sum(map(int, one[4:-1].split(", "))) > 380 for one in colours]
        assert bright == ([False, True] if is_dark else [True, False])
        size = page.evaluate(
            "Math.min(...[...document.querySelectorAll('svg text')]"
            ".map((one) => one.getBoundingClientRect().height))"
        )
        assert size >= 9, "in pixels, of the letters in figures"
        page.context.close()


@pytest.mark.parametrize("name", ["small", "twenty"])
def test_no_table_is_cut_on_paper(
    browser: Browser, name: str, request: pytest.FixtureRequest
) -> None:
    page = open_page(browser, request.getfixturevalue(name), "paper", is_dark=True)
    page.emulate_media(media="print")
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf(format="A4")) > 10_000
    page.context.close()


def test_tables_and_figures_have_names(page: Page) -> None:
    unnamed = page.evaluate("""() => [...document.querySelectorAll("table")].filter((one) =>
      !one.getAttribute("aria-labelledby").split(" ").every((id) => document.getElementById(id)))
      .length""")
    assert unnamed == 0
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("svg:not([role=img][aria-label])").count() == 0
    assert page.locator("figure:not(:has(figcaption))").count() == 0


def test_page_of_ten_thousand_groups_is_below_five_mebibytes(
    browser: Browser, small: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / RECIPE).write_text((small.parent / RECIPE).read_text())
    (run / GRAPH).write_text(json.dumps({"groups": "stages/groups/0"}))
    text = f"<think>{'2 + 2 is 4; ' * 150}</think> <answer>4</answer> {BAD}"
    completions = [
        make_completion(
            text, num_tokens=400 + k, verdict="correct" if k % 2 else "wrong", reward=0.1 * k
        )
        for k in range(8)
    ]
    groups = [make_group(f"p{i}", completions, question=f"{i} + 2?") for i in range(10_000)]
    write_store(run / "stages/groups/0", groups, per_file=2_500)
    file = Path(write_report(str(run)))
    assert os.path.getsize(file) < 5 * 2**20
    page = open_page(browser, file)
    assert count(page) == f"{MOST_GROUPS} of {MOST_GROUPS} groups"
    assert page.title() != "broken"
    assert "500 of the 10,000 groups, spread evenly" in page.locator("#groups").inner_text()
    page.locator("input[type=search]").fill("9999 +")
    assert page.locator("details.group").count() == 1
    page.locator("details.group summary").first.click()
    shown = page.locator("details.group pre").first.inner_text()
    assert "characters ...]" in shown and shown.endswith(BAD)
    page.context.close()
