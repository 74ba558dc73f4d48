"""The jobs from Python, for a notebook or a script of your own.

    import fastdistill_ray as fd

    run = fd.distill("demo", "runs/demo", changes={"task.num_train": 40})
    print(run.summary())

Every call checks the recipe as the command line does and submits the same job to the same cluster,
so that both may be used on one run folder.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pyarrow as pa

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.store import Store
from fastdistill_ray.recipe.loading import dump_recipe, load_changed
from fastdistill_ray.recipe.paths import with_absolute_paths
from fastdistill_ray.recipe.shapes import check_run_of_distill
from fastdistill_ray.recipe.shipped import PACKAGE
from fastdistill_ray.recipe.tree import AnyRecipe, Recipe
from fastdistill_ray.report.sections import write_report
from fastdistill_ray.report.summary import summary
from fastdistill_ray.run import launch
from fastdistill_ray.run.folder import place_of_run
from fastdistill_ray.run.launch import check, variables_of
from fastdistill_ray.run_files import RECIPE, RESULTS, STUDENTS, read_json, stage_folders
from fastdistill_ray.storage.place import Place

AnyPath = str | PathLike[str] | Place


class JobFailed(RuntimeError):
    """A job that ended with another exit code than 0: what it said last, else where to look."""

    def __init__(self, verb: str, code: int, error: str) -> None:
        super().__init__(f"{verb} ended with exit code {code}: {error or 'its log is above'}")
        self.code = code


class Run:
    """A run folder: what it found, where its students are, the groups they learnt from."""

    def __init__(self, path: AnyPath, *, is_seen: bool = True) -> None:
        """UserError where the folder is no distillation's run; where it is not to be seen from
        here, as a cluster's may be, only once it is looked into."""
        self._path = place_of_run(path)
        if is_seen:
            check_run_of_distill(str(self.path))

    @property
    def path(self) -> Place:
        if not (self._path / RECIPE).is_file():
            raise UserError(f"{self._path}: no run folder, it holds no {RECIPE}")
        return self._path

    @property
    def results(self) -> dict[str, Any]:
        """results.json; empty before an evaluation has ended."""
        return read_json(self.path / RESULTS, {})

    @property
    def students(self) -> dict[str, str]:
        """Name -> folder that transformers and vLLM load."""
        return {folder.name: str(folder) for folder in (self.path / STUDENTS).list()}

    def groups(self) -> Iterator[pa.Table]:
        """The teacher's judged and weighted groups, one row a problem (records.GROUP_SCHEMA), in
        parts; none before the first is committed."""
        if folder := stage_folders(self.path).get("groups"):
            yield from Store(folder).tables()

    def summary(self) -> str:
        """A table of accuracies, and where the student is."""
        return summary(self.path)

    def report(self) -> str:
        """Writes report.html and report.md again, also of an unfinished run; -> the former."""
        return write_report(self.path)


def load_recipe(recipe: AnyPath, changes: Mapping[str, Any] | None = None) -> AnyRecipe:
    """A YAML file, or the name of a shipped recipe, with `changes` by field:
    {"objective.tau": 0.7}. UserError is one line that names the field."""
    return load_changed(_text(recipe), changes or {})


def plan(
    recipe: AnyPath | AnyRecipe, run_dir: AnyPath = "", *, changes: Mapping[str, Any] | None = None
) -> str:
    """What `distill` would do in the folder, as --dry-run prints it."""
    return launch.plan(_recipe(recipe, changes), _text(run_dir))


class Options(TypedDict, total=False):
    """changes: as of `load_recipe`. address: of a Ray dashboard ("": $RAY_ADDRESS, else your head
    on this machine, else one for the time of the job). again: "groups", "answers", "set_aside".
    env: names of variables that the job gets too."""

    changes: Mapping[str, Any]
    address: str
    again: Sequence[str]
    env: Sequence[str]


def distill(recipe: AnyPath | AnyRecipe, run_dir: AnyPath = "", **options: Unpack[Options]) -> Run:
    """The whole recipe: groups, students, evaluation, report. Called again, it goes on.

    run_dir: the run's folder or bucket ("": `runs/NAME`). Its log is printed meanwhile. UserError
    before anything starts; JobFailed where the job fails.
    """
    return _run("distill", recipe, run_dir, **options)


def generate(recipe: AnyPath | AnyRecipe, run_dir: AnyPath = "", **options: Unpack[Options]) -> Run:
    """The teacher's groups alone, as `distill`."""
    return _run("generate", recipe, run_dir, **options)


def train(recipe: AnyPath | AnyRecipe, run_dir: AnyPath = "", **options: Unpack[Options]) -> Run:
    """The students, from a run's groups, as `distill`."""
    return _run("train", recipe, run_dir, **options)


def evaluate(recipe: AnyPath | AnyRecipe, run_dir: AnyPath = "", **options: Unpack[Options]) -> Run:
    """Baselines and students on the test problems, as `distill`."""
    return _run("evaluate", recipe, run_dir, **options)


def _text(path: AnyPath) -> str:
    """A place in a bucket has no path of this machine."""
    return str(path) if isinstance(path, Place) else fspath(path)


def _recipe(recipe: AnyPath | AnyRecipe, changes: Mapping[str, Any] | None) -> AnyRecipe:
    if not isinstance(recipe, str | PathLike):
        if changes:
            raise UserError("changes: of a recipe that is loaded; give them to load_recipe")
        return recipe
    return load_recipe(recipe, changes)


def _run(
    verb: str,
    recipe: AnyPath | AnyRecipe,
    run_dir: AnyPath,
    changes: Mapping[str, Any] | None = None,
    address: str = "",
    again: Sequence[str] = (),
    env: Sequence[str] = (),
) -> Run:
    """By the command line in a process of its own: Ray reads how it proves who it is once in a
    process, and one that has loaded it before may not have said so."""
    recipe = _recipe(recipe, changes)
    if not isinstance(recipe, Recipe):
        raise UserError(f"recipe {recipe.name}: no distillation's; run it by its verb")
    recipe = with_absolute_paths(recipe)
    variables_of(env)
    place = check(verb, recipe, _text(run_dir), address, again)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(dump_recipe(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "fastdistill_ray.cli", verb, str(file)]
        command += ["--run-dir", str(place), "--address", address]
        command += [f"--again={stage}" for stage in again] + [f"--env={name}" for name in env]
        code, error = _stream(command)
    if code:
        raise JobFailed(verb, code, error)
    return Run(place, is_seen=not address)


def _stream(command: Sequence[str]) -> tuple[int, str]:
    """Prints what it says until it ends; -> (its exit code, its last line of an error). At Ctrl-C,
    or when a notebook's cell is interrupted, it is told so too and its end is waited for."""
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    assert process.stdout
    error = ""
    try:
        for line in process.stdout:
            sys.stdout.write(line)
            error = line.removeprefix("error: ").strip() if line.startswith("error: ") else error
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            sys.stdout.write(process.stdout.read())
    return process.wait(), error
