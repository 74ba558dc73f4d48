"""The diff that travels with a job: this project's own, without keys."""

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.run import provenance
from fastdistill_ray.run.submission import key_variables

KEY = "sk-planted-4f1b"
PROJECT = '[project]\nname = "fastdistill-ray"\n'


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def repository(folder: Path, files: dict[str, str]) -> Path:
    """A git repository with these files committed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def installed_in(folder: Path) -> ModuleType:
    """The module as a package in that folder has it."""
    file = folder / "fastdistill_ray" / "run" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text(Path(provenance.__file__).read_text())
    spec = importlib.util.spec_from_file_location("installed", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_diff_of_the_checkout_has_tracked_changes_and_no_untracked_files(tmp_path):
    project = repository(tmp_path / "project", {"pyproject.toml": PROJECT, "a.py": "a = 1\n"})
    (project / "a.py").write_text("a = 2\n")
    (project / "notes.txt").write_text("not for others")
    state = installed_in(project).code_state()
    commit, diff = state.split("\n", 1)
    assert commit == git(project, "rev-parse", "--short=12", "HEAD").strip() + "-dirty"
    assert "-a = 1\n+a = 2\n" in diff
    assert "not for others" not in diff


@pytest.mark.parametrize("folder", [".venv/lib/site-packages", "."])
def test_installed_inside_another_repository_nothing_of_it_is_taken(tmp_path, folder):
    other = repository(tmp_path / "other", {"pyproject.toml": '[project]\nname = "theirs"\n'})
    (other / "pyproject.toml").write_text(f'[project]\nname = "theirs"\nkey = "{KEY}"\n')
    state = installed_in(other / folder).code_state()
    assert state.strip() == ""


def test_variables_that_git_sets_for_hooks_of_another_repository_are_not_followed(
    tmp_path, monkeypatch
):
    other = repository(tmp_path / "other", {"pyproject.toml": PROJECT})
    installed = installed_in(tmp_path / "site-packages")
    (tmp_path / "site-packages" / "pyproject.toml").write_text(f"{PROJECT}# {KEY}\n")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert installed.code_state().strip() == ""


def test_keys_in_the_diff_are_starred_out(tmp_path, monkeypatch):
    project = repository(tmp_path / "project", {"pyproject.toml": PROJECT, "a.py": "a = 1\n"})
    (project / "a.py").write_text(f"a = '{KEY}'\nb = 'hunter2hunter2'\nc = 'true'\n")
    monkeypatch.setenv("OUR_TEACHER", f"{KEY}\n")  # a name that only the recipe tells
    monkeypatch.setenv("SOME_API_TOKEN", "hunter2hunter2")
    monkeypatch.setenv("USE_TOKENS", "true")
    state = installed_in(project).code_state(["OUR_TEACHER", "NOT_SET"])
    assert "+a = '***'\n+b = '***'\n+c = 'true'\n" in state
    assert KEY not in state


def test_every_variable_that_a_recipe_says_holds_a_key_is_known():
    endpoint = {"kind": "endpoint", "url": "http://127.0.0.1:1/v1"}
    overrides = {
        "teachers": [
            {"model": name, "engine": {**endpoint, "api_key_env": f"{name}_VARIABLE"}}
            for name in ("A", "B")
        ],
        "reward.weights.llm_judge": 1.0,
        "reward.llm_judge.url": "http://127.0.0.1:1/v1",
        "reward.llm_judge.model": "judge",
        "reward.llm_judge.api_key_env": "C_VARIABLE",
        "pools.teachers": [{"cpus": 0.5}, {"cpus": 0.5}],
    }
    arguments = [f"--{name}={json.dumps(value)}" for name, value in overrides.items()]
    recipe = load_recipe("jobs/recipes/demo_full.yaml", arguments)
    names = key_variables(recipe.model_dump())
    assert {name for name in names if name.endswith("_VARIABLE")} == {
        "A_VARIABLE",
        "B_VARIABLE",
        "C_VARIABLE",
    }
