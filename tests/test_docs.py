"""What the documents name exists, and the examples of docs/extending.md run."""

import re
from pathlib import Path

import pytest
import yaml

from fastdistill_ray.tasks import TASKS
from fastdistill_ray.verifiers import Judge, VerifierKnobs

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("benchmarks/*.md")),
]
EXPERIMENTS = sorted(ROOT.glob("docs/experiments/*.md"))
DECISIONS = sorted(ROOT.glob("docs/decisions/*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.S | re.M)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def front_matter(page: Path) -> dict[str, object]:
    _, head, _ = page.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.load(head, yaml.BaseLoader)  # an id such as 0008 stays as it is written


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_to_files_that_exist(page):
    links = LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    targets = [link.split("#")[0] for link in links if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


def test_architecture_names_every_folder_of_the_package_and_no_other():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = text.split("## Folders")[1].split("\n## ")[0]
    named = re.findall(r"^\| `(\w+)/` \|", table, re.M)
    folders = [file.parent.name for file in ROOT.glob("fastdistill_ray/*/__init__.py")]
    assert sorted(named) == sorted(folders)


@pytest.mark.parametrize("page", EXPERIMENTS, ids=name)
def test_experiment_has_its_front_matter_and_a_row_in_the_log(page):
    head = front_matter(page)
    keys = ("id", "question", "answer", "status", "date", "code", "command", "machine")
    assert [key for key in keys if not head.get(key)] == []
    assert page.name.startswith(f"{head['id']}-")
    row = f"| [{head['id']}]({name(page)}) | {head['question']} | {head['answer']} |"
    rows = (ROOT / "LOG.md").read_text(encoding="utf-8").splitlines()
    tail = f" {head['status']} | {head['date']} |"
    assert [line for line in rows if line.startswith(row)] == [f"{row}{tail}"]


@pytest.mark.parametrize("page", EXPERIMENTS, ids=name)
def test_code_that_an_experiment_names_exists(page):
    for file, word in re.findall(
        r"([\w/]+\.(?:py|yaml))(?::(\w+))?", str(front_matter(page)["code"])
    ):
        place = ROOT / file if file.startswith("jobs/") else ROOT / "fastdistill_ray" / file
        assert place.is_file(), file
        assert re.search(rf"\b{word}\b", place.read_text(encoding="utf-8")), f"{file}:{word}"


@pytest.mark.parametrize("page", DECISIONS, ids=name)
def test_decision_says_what_a_decision_says_on_one_page(page):
    text, head = page.read_text(encoding="utf-8"), front_matter(page)
    assert [key for key in ("id", "decision", "status", "experiments") if not head.get(key)] == []
    parts = ("Context", "Decision", "Consequences", "Would change our mind")
    assert [part for part in parts if f"\n## {part}\n" not in text] == []
    assert text.count("\n") < 45
    measured = {page.name[:4] for page in EXPERIMENTS}
    assert set(re.findall(r"\d{4}", str(head["experiments"]))) <= measured


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_benchmarks_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for module in set(re.findall(r"python -m (benchmarks(?:\.\w+)+)", text)):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module


def test_every_benchmark_has_a_row():
    text = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    files = [file for file in ROOT.glob("benchmarks/*.py") if file.stem != "harness"]
    names = [file.stem for file in files]
    names += [file.parent.name for file in ROOT.glob("benchmarks/*/__main__.py")]
    assert [one for one in names if f"python -m benchmarks.{one}" not in text] == []


def test_examples_of_extending_run(tmp_path, monkeypatch):
    """A block that begins with the name of a file without a folder is that file, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastdistill_ray.tasks.TASKS", TASKS.copy())
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    assert blocks
    names: dict[str, object] = {"__name__": "extending"}
    for block in blocks:
        if file := re.match(r"# (\w+\.py)\n", block):
            Path(file[1]).write_text(block, encoding="utf-8")
        exec(compile(block, "docs/extending.md", "exec"), names)


def test_every_convention_of_the_judge_is_judged_as_its_page_says():
    text = (ROOT / "docs/verifiers.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| `(.+?)` \| `(.+?)` \| (correct|wrong|not) \|", text, re.M)
    assert len(rows) > 50
    with Judge(VerifierKnobs(time_limit=30.0)) as judge:
        found = [
            (kind, reference, answer, judge.judge(kind, rf"\boxed{{{answer}}}", reference).verdict)
            for kind, reference, answer, _ in rows
        ]
    assert [
        one
        for one, (*_, said) in zip(found, rows, strict=True)
        if (one[3] == "correct") != (said == "correct") or (said == "wrong" and one[3] != "wrong")
    ] == []
