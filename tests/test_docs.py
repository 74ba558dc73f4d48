"""What the documents name exists, the site builds, and the examples of docs/extending.md run."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fastdistill_ray.evaluation import metrics, results
from fastdistill_ray.evaluation.gaps import Gap, gap_recovered
from fastdistill_ray.storage.place import Place
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


def test_site_builds_without_a_warning(tmp_path):
    """A column, verdict or link without a page to lead to ends the build."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.html")}
    assert {"index.html", "reference/cli.html", "files/LOG.html"} <= pages
    for page, word in (("cli", "--dry-run"), ("fields", "best_of"), ("schemas", "is_selected")):
        assert word in (tmp_path / f"reference/{page}.html").read_text(encoding="utf-8")


def test_every_key_and_metric_of_results_is_documented(tmp_path):
    """Its lists, and the rows of a comparison with seeds, parts and a gap."""
    text = (ROOT / "docs/reference/results.md").read_text(encoding="utf-8")
    results.write_results({}, {}, "a", {}, [], {}, out=Place(tmp_path / "results.json"))
    tree = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    answers = [_answer(f"task/{part}/{i}", seed) for part in "ab" for i in "01" for seed in (0, 1)]
    differences = metrics.compare_rows(answers, answers, model="a", minus="b", split="test")
    gap = gap_recovered(Gap("a", "b", "c"), dict.fromkeys("abc", answers), "test")
    rows = [
        *metrics.summarize(answers, "a", "test"),
        *metrics.accuracy_by_part(answers, "a", "test"),
        *metrics.accuracy_by_seed(answers, "a", "test"),
        *results.adjust_for_all(differences),
        *filter(None, [gap]),
    ]
    names = {*tree, *results.COSTS, *(key for row in rows for key in row)}
    names |= {row["metric"] for row in rows if "metric" in row}
    whole = {re.sub(r"_(correct|wrong)$", "", re.sub(r"^pass@.*", "pass@k", one)) for one in names}
    assert [one for one in sorted(whole) if f"`{one}`" not in text] == []


def _answer(problem: str, seed: int) -> dict[str, object]:
    parts = {f"format_{part}": True for part in ("think", "answer", "box", "whole")}
    return {
        **{"problem_id": problem, "split": "test", "k": 0, "reference": "1", "cluster": ""},
        **{"verdict": "correct", "lenient_verdict": "correct", "finish_reason": "stop"},
        **{"num_tokens": 3, "training_seed": seed, "rep_4": 0.0, "num_loops": 0, **parts},
    }


def test_errors_that_troubleshooting_names_are_those_of_the_code():
    """What stands between three dots is a part of one text of the code."""
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").split("## Before")[1]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    quoted = [part for cell in cells for part in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 40
    said = [one for file in ROOT.glob("fastdistill_ray/**/*.py") for one in _texts(file)]
    assert [one for one in quoted if not any(_is_in(one, text) for text in said)] == []


def _is_in(quote: str, text: str) -> bool:
    return all(piece.strip() in text for piece in quote.split("..."))


def _texts(file: Path) -> list[str]:
    """Of a formatted one, what stands between what is put in."""
    texts = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            pieces = [one.value for one in node.values if isinstance(one, ast.Constant)]
            texts.append(" ... ".join(map(str, pieces)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return texts
