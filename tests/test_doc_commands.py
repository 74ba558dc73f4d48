"""Every command in a ```bash box of the README and of docs/ runs, or its box says what it needs.

A page is one folder: fences with a file's name as title are its files, `runs/demo` and `runs/other`
are runs with invented answers. Jobs are planned (`--dry-run`), all other verbs run, and so does
Python of the reference. A box whose title is a file of the project shows a part of it.
"""

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from support.run_folder import make_run

from fastdistill_ray.cli import JOBS, build_parser, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
# What a box may say instead of being run.
NEEDS = (
    *("needs a cluster", "needs the network", "needs a run", "needs a running job"),
    "takes minutes",
)
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?[ \t]*\n(.*?)^```[ \t]*$", re.S | re.M)


class Fence(NamedTuple):
    language: str
    title: str
    text: str


def fences(page: Path) -> list[Fence]:
    return [Fence(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(text: str) -> list[list[str]]:
    """The words of each line, comments apart; a line may go on behind a backslash."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def is_ours(words: list[str]) -> bool:
    return "fastdistill" in words[:2]


def boxes(page: Path) -> list[Fence]:
    return [one for one in fences(page) if one.language == "bash"]


WITH_BASH = [page for page in PAGES if boxes(page)]
PYTHON = ROOT / "docs/reference/python.md"
RUN = [page for page in WITH_BASH if any(not box.title for box in boxes(page))] + [PYTHON]


@pytest.mark.parametrize("page", WITH_BASH, ids=name)
def test_box_says_what_it_needs_or_holds_nothing_but_fastdistill(page):
    for box in boxes(page):
        assert box.title in ("", *NEEDS)
        if not box.title:
            assert [words for words in commands(box.text) if not is_ours(words)] == []


@pytest.mark.parametrize("page", WITH_BASH, ids=name)
def test_command_that_is_not_run_has_a_verb_and_flags_that_exist(page):
    for box in boxes(page):
        for words in commands(box.text) if box.title else []:
            if is_ours(words):
                given = words[words.index("fastdistill") + 1 :]
                _, fields = build_parser().parse_known_args(given)
                unknown = [one for one in fields if "." not in one.partition("=")[0]]
                assert not unknown or given[0] == "serve"  # which hands them to vLLM


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "demo")
    shutil.copytree(folder / "demo", folder / "other")
    return folder


@pytest.mark.parametrize("page", RUN, ids=name)
def test_commands_of_a_page_run(page, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "runs/" in page.read_text(encoding="utf-8"):
        shutil.copytree(runs, tmp_path / "runs")
    for fence in fences(page):
        if (ROOT / fence.title).is_file():
            assert fence.text in (ROOT / fence.title).read_text(encoding="utf-8")
        elif "." in fence.title:
            (tmp_path / fence.title).write_text(fence.text, encoding="utf-8")
    for fence in fences(page):
        if fence.language == "bash" and not fence.title:
            for words in commands(fence.text):
                run(words, monkeypatch)
        if fence.language == "python" and not fence.title and page.parent.name == "reference":
            exec(compile(fence.text, name(page), "exec"), {})


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`NAME=value fastdistill VERB ... > FILE`; what it says is for the file, or for who reads the
    error."""
    at = words.index("fastdistill")
    for variable in words[:at]:
        monkeypatch.setenv(*variable.split("=", 1))
    given, _, file = " ".join(shlex.quote(word) for word in words[at + 1 :]).partition(" '>' ")
    arguments = shlex.split(given)
    if arguments[0] in JOBS and "--help" not in arguments:
        arguments += [] if "--dry-run" in arguments else ["--dry-run"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(arguments)
        except SystemExit as ended:  # --help, --version
            code = ended.code
    assert code in (0, None), f"{shlex.join(words)}\n{said.getvalue()}"
    if file:
        Path(shlex.split(file)[0]).write_text(said.getvalue(), encoding="utf-8")
