"""What people give it that is wrong: exit code 2, one line that says what and where, nothing left.

In this process, through the command line's own `main`; some as processes. A case that is taken for
right would ask the cluster of RAY_ADDRESS, which is none, and its line would be another.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.bad_files import GOOD, KNOBS, RESPONSES, SCORES, TASKS, lines
from support.bad_recipes import FIELDS, LINES, OVERRIDES, RUN_DIRS, TEXTS
from support.jobs import tiny_recipe

from fastdistill_ray import cli

JSONL: dict[str, Any] = {"name": "jsonl", "num_ood": None}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe that is right, a folder of somebody else's, a run that somebody spoilt, a reward
    that does not load: left as they are by all that is done here."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("FASTDISTILL_CACHE", str(tmp_path.parent / "cache"))
    work = tmp_path / "work"
    for name, text in {
        "recipe.yaml": yaml.safe_dump(tiny_recipe("m")),
        "foreign/notes.txt": "mine\n",
        "spoilt/recipe.yaml": "name: [\n",
        "spoilt/lease/1.json": "{torn",
        "good.jsonl": lines(GOOD).decode(),
        "broken.py": "def f(:\n",
    }.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    monkeypatch.chdir(work)
    yield work


def contents(folder: Path) -> dict[str, bytes | None]:
    found = sorted(folder.rglob("*"))
    return {
        str(one.relative_to(folder)): one.read_bytes() if one.is_file() else None for one in found
    }


def refused(
    argv: list[str], words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By one line with these words, soon, and every file is as it was."""
    argv, words = (
        [re.sub(r"\bDIR\b", str(folder), one) for one in texts] for texts in (argv, words)
    )
    before, begin = contents(folder), time.process_time()
    try:
        code = cli.main(argv)
    except SystemExit as ended:  # argparse
        code = ended.code
    said = capsys.readouterr()
    assert (code, said.out) == (2, ""), said
    assert said.err.startswith("error: ") and said.err.count("\n") == 1, said.err
    assert len(said.err) < 1000, said.err
    assert [word for word in words if word not in said.err] == [], said.err
    assert contents(folder) == before
    assert time.process_time() - begin < 5


def cases(table: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table, ids=lambda case: case[0].replace(" ", "_"))


@cases(TEXTS)
def test_recipe_that_is_none_is_refused(case, folder, capsys):
    (folder / "recipe.yaml").write_bytes(case[1])
    refused(["distill", "recipe.yaml", "--run-dir", "run"], case[2], folder, capsys)


@cases(FIELDS)
def test_recipe_with_a_wrong_field_is_refused(case, folder, capsys):
    _, changes, words = case
    recipe = tiny_recipe("m", **changes)
    recipe = {name: section for name, section in recipe.items() if section is not None}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    refused(["distill", "recipe.yaml", "--run-dir", "run"], words, folder, capsys)


@cases(OVERRIDES)
def test_override_that_is_wrong_is_refused(case, folder, capsys):
    refused(["train", "recipe.yaml", "--run-dir", "run", *case[1]], case[2], folder, capsys)


@cases(LINES)
def test_command_line_that_is_wrong_is_refused(case, folder, capsys):
    refused(case[1], case[2], folder, capsys)


@cases(RUN_DIRS)
def test_run_folder_that_cannot_be_one_is_refused(case, folder, capsys):
    refused(["generate", "recipe.yaml", "--run-dir", case[1]], case[2], folder, capsys)


@cases(TASKS)
def test_file_of_problems_that_is_wrong_is_refused(case, folder, capsys):
    name, file, data, words = case
    if data is not None:
        (folder / file).write_bytes(data)
    task = {**JSONL, "path": file, **KNOBS.get(name, {})}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe("m", task=task)))
    refused(["distill", "recipe.yaml", "--run-dir", "run"], words, folder, capsys)


@cases(RESPONSES)
def test_file_of_responses_that_is_wrong_is_refused(case, folder, capsys):
    _, data, words = case
    if data is not None:
        (folder / "in.jsonl").write_bytes(data)
    refused(["score", "in.jsonl", "--output", "out.jsonl"], words, folder, capsys)


@cases(SCORES)
def test_score_that_cannot_be_written_or_computed_is_refused(case, folder, capsys):
    refused(["score", "good.jsonl", *case[1]], case[2], folder, capsys)


PROCESSES = [
    (["distill", "none.yaml"], "none.yaml"),
    (["distil"], "distill"),
    (["distill", "recipe.yaml", "--run-dir", "run", "--training.epoch=1"], "did you mean epochs"),
    (["distill", "recipe.yaml", "--run-dir", "foreign"], "choose another"),
    (["score", "good.jsonl"], "--output"),
    (["fsck", "foreign"], "foreign"),
]


@pytest.mark.parametrize(("argv", "word"), PROCESSES, ids=lambda value: " ".join(value))
def test_process_ends_with_code_2_and_one_line(argv, word, folder):
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    command = [sys.executable, "-m", "fastdistill_ray.cli", *argv]
    before = contents(folder)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr and done.stderr.count("\n") == 1
    assert contents(folder) == before
