"""Pictures of a report for docs/images/, by headless Chromium:

    PYTHONPATH=.:tests python -m support.pictures docs/images

Of made-up numbers, as the tests have them: what a page looks like, not what was found.
"""

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import Browser, Page, sync_playwright
from support.run_folder import SKILL, make_run

from fastdistill_ray.report.sections import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
PAGE_SIZES = {
    "desktop": (1280, 900),
    "phone": (390, 844),
    "paper": (696, 1000),
}  # paper: A4 - margins
MARGIN, MOST_HIGH = 28, 1400
# Further students: their entries, what they solve, keep of the format, and write.
STUDENTS: dict[str, tuple[dict[str, Any], tuple[float, float, float]]] = {
    "forward_kl": ({"kind": "forward_kl"}, (0.52, 0.93, 47.0)),
    "reverse_kl": ({"kind": "reverse_kl"}, (0.57, 0.95, 43.0)),
    "jsd": ({"kind": "jsd"}, (0.55, 0.94, 45.0)),
    "dpo": ({"kind": "dpo"}, (0.44, 0.80, 61.0)),
}


def chromium() -> str:
    """Its path; "" where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


@contextlib.contextmanager
def headless() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def open_page(
    browser: Browser, file: Path, size: str = "desktop", *, is_dark: bool = False, **options: Any
) -> Page:
    width, height = PAGE_SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if is_dark else "light",
        **options,
    )
    page = context.new_page()
    page.goto(file.as_uri())
    return page


def make_larger_run(folder: Path, num_students: int = len(STUDENTS)) -> Path:
    """A run of more students than the tests' own: with 4 further ones, nine models."""
    kinds = list(STUDENTS.values())
    entries, skill = [], dict(SKILL)
    for number in range(num_students):
        entry, knobs = kinds[number % len(kinds)]
        name = entry["kind"] if number < len(kinds) else f"{entry['kind']}_{number}"
        entries.append({"name": name, "model": "", "group_size": None, **entry})
        skill[name] = knobs
    path = Path(make_run(folder, skill))
    recipe = yaml.safe_load((path / "recipe.yaml").read_text())
    recipe["compare"]["students"] += entries
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    results = json.loads((path / "results.json").read_text())
    results["costs"] += [
        {"model": entry["name"], "trained_tokens": 19_752, "seconds": 180.0} for entry in entries
    ]
    (path / "results.json").write_text(json.dumps(results))
    write_report(str(path))
    return path


def take_pictures(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, headless() as browser:
        small = Path(make_run(Path(folder) / "small"))
        write_report(str(small))
        nine = make_larger_run(Path(folder) / "nine")

        def picture(name: str, page: Page, selector: str = "", **options: Any) -> None:
            file = out / f"report-{name}.png"
            clip = None
            if selector:
                page.evaluate("scrollTo({top: 0, behavior: 'instant'})")  # boxes count from there
                box = page.locator(selector).first.bounding_box()
                assert box
                clip = {**box, "x": box["x"] - MARGIN, "width": box["width"] + 2 * MARGIN}
                clip["height"] = min(box["height"], MOST_HIGH)
            page.screenshot(path=file, clip=clip, full_page=bool(clip), **options)
            page.context.close()

        picture("desktop", open_page(browser, small / "report.html"))
        picture("dark", open_page(browser, small / "report.html", is_dark=True))
        phone = open_page(browser, small / "report.html", "phone")
        picture("phone", phone)
        groups = open_page(browser, small / "report.html")
        groups.locator("details.group summary").first.click()
        picture("groups", groups, "#groups")
        picture("nine", open_page(browser, nine / "report.html"), "#results")
        paper = open_page(browser, small / "report.html", "paper")
        paper.emulate_media(media="print")
        picture("print", paper)


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]))
