"""A recipe in its run folder: stages that are reused where their work is there, and the view of
the recipe. No Ray, no torch.
"""

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Generic, TypeVar

import yaml

from fastdistill_ray.background import repeated
from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.digests import UNKNOWN, text_digest
from fastdistill_ray.endpoints.ledger import PAID
from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.aside import SET_ASIDE
from fastdistill_ray.groups.log import LOG
from fastdistill_ray.groups.store import DAMAGED, Store
from fastdistill_ray.recipe.loading import dump_recipe
from fastdistill_ray.recipe.shapes import DISTILL
from fastdistill_ray.recipe.tree import AnyRecipe, Recipe
from fastdistill_ray.run.forecast import standing
from fastdistill_ray.run.graph import Stage, find, made_of, new_folder
from fastdistill_ray.run.lease import LEASES
from fastdistill_ray.run.provenance import code_state, versions
from fastdistill_ray.run.stages import TRAIN, Stages
from fastdistill_ray.run_files import (
    CHECKPOINTS,
    CHOICE,
    GIT,
    GRAPH,
    MANIFEST,
    METRICS,
    POLICIES,
    RECIPE,
    RECIPES,
    RESULTS,
    SECONDS,
    STAGE,
    STAGES,
    STALL,
    VERSIONS,
    VIEW,
    StageResult,
    read_json,
    write_json,
    write_text,
)
from fastdistill_ray.storage.folders import move
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.trackers import TENSORBOARD, TRACKED, WANDB

logger = logging.getLogger(__name__)
R = TypeVar("R", bound=AnyRecipe)


NOTE_SECONDS = 20.0  # between notes of the time spent: so much is lost by kill -9
DRIVER = (PoolKnobs(),)  # what is held where only the driver works


class JobFolder(Generic[R]):
    """Of any job, in a folder or bucket that every node of the cluster can read and write."""

    def __init__(self, path: str | Place, recipe: R) -> None:
        self.path = place_of_run(path)
        self.recipe = recipe
        self.graph: dict[str, str] = {}  # of the stages that this process has come to
        try:
            self.path.exists()
        except (OSError, ValueError) as error:  # Arrow's, of an option it does not know
            raise UserError(f"--run-dir {self.path}: cannot be reached: {error}") from error
        if self.path.is_file():
            raise UserError(f"--run-dir {self.path}: a file; name a folder")
        is_run = (self.path / RECIPE).exists() or (self.path / STAGES).exists()
        if not is_run and [one for one in self.path.list() if one.name != LEASES]:
            raise UserError(
                f"--run-dir {self.path}: not empty and no run folder, it holds no {RECIPE}; choose "
                "another"
            )

    def folder(self, stage: Stage) -> Place:
        """Where the stage's work is, or is to begin: then what it depends on is noted there."""
        found = find(self.path, stage)
        return found.folder if found else new_folder(self.path, stage)

    def is_complete(self, stage: Stage) -> bool:
        found = find(self.path, stage)
        return found is not None and found.is_complete

    @property
    def view(self) -> Place:
        """Where what the recipe says and finds belongs: the run folder, or recipes/ once another
        recipe has taken that."""
        return self.path if self.is_claimed() else self.path / RECIPES / self.id

    @property
    def id(self) -> str:
        return view_id(dump_recipe(self.recipe))

    def enter(self, stage: Stage) -> Place:
        """The stage's folder, noted as one of this recipe."""
        folder = self.folder(stage)
        if UNKNOWN in json.dumps(read_json(folder / STAGE, {}).get("inputs", {})):
            write_json(folder / STAGE, stage.dependencies)  # a revision may be known by now
        place = folder.relative_to(self.path)
        # Two of a kind may have one label, such as a signal of two students' texts.
        is_free = self.graph.get(stage.name, place) == place
        self.graph[stage.name if is_free else f"{stage.kind}/{folder.name}"] = place
        if (self.view / RECIPE).exists():
            self._note_graph(self.view)
        return folder

    def stage(
        self,
        stage: Stage,
        function: Callable[..., StageResult],
        *args: Any,
        pools: Sequence[PoolKnobs] = DRIVER,
        **kwargs: Any,
    ) -> Place:
        """Run `function(*args, **kwargs, out=folder)` unless that is done; -> the folder.

        `pools` are held meanwhile.
        """
        folder = self.enter(stage)
        if self.is_whole(stage, folder):
            self.log_reused(stage, folder)
            return folder
        self.log_started(stage.name)
        if stage.kind == TRAIN and (where := _goes_on_from(folder)):
            logger.info("%s: %s", stage.name, where)
        clock = Clock(folder)
        try:
            with repeated(clock.note, NOTE_SECONDS):
                result = function(*args, **kwargs, out=folder)
        finally:
            clock.stop()
        self.complete(stage, folder, result, clock.seconds[folder], pools)
        return folder

    def is_whole(self, stage: Stage, folder: Place) -> bool:
        """Whether the stage is complete and its files are as it left them, by their size; where
        they are not, it is no longer complete."""
        manifest = read_json(folder / MANIFEST, None)
        if manifest is None:
            if stage.kind == TRAIN:  # its manifest or all of it may be lost
                self._remove_what_is_made_of(folder)
            return False
        if faults := damaged_files(folder, manifest):
            logger.warning("%s: %s; it is made again", stage.name, "; ".join(faults))
            if stage.kind == TRAIN:
                self._remove_what_is_made_of(folder)
            (folder / MANIFEST).unlink()
        return not faults

    def _remove_what_is_made_of(self, folder: Place) -> None:
        """What a student that is to be trained again has answered and written: the next one need
        not be the same to the last bit."""
        for one in made_of(self.path, folder):
            self._remove_what_is_made_of(one.folder)
            there = one.folder.relative_to(self.path)
            logger.warning("%s: of a student that is trained again, made again too", there)
            one.folder.remove_tree()

    def complete(
        self,
        stage: Stage,
        folder: Place,
        result: StageResult,
        seconds: float,
        pools: Sequence[PoolKnobs],
    ) -> None:
        """Writes the manifest, last: the stage's work is never changed again."""
        assert result.rows_in == result.rows_out + sum(result.set_aside.values()), (stage, result)
        manifest = {
            "stage": stage.name,
            "rows_in": result.rows_in,
            "rows_out": result.rows_out,
            "set_aside": result.set_aside,
            "seconds": round(seconds, 2),
            "cpu_hours": sum(pool.workers * pool.cpus for pool in pools) * seconds / 3600,
            "gpu_hours": sum(pool.workers * pool.gpus for pool in pools) * seconds / 3600,
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.completion_tokens,
            "facts": result.facts,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "git": code_state().split("\n", 1)[0],
            "files": sizes_in(folder),
        }
        write_json(folder / MANIFEST, manifest)
        rows = f"{result.rows_out:,}"
        if result.set_aside:
            left = ", ".join(f"{why} {number:,}" for why, number in result.set_aside.items())
            rows += f" of {result.rows_in:,} rows ({left} left out)"
        else:
            rows += " rows"
        logger.info("%s: done in %.0f s, %s", stage.name, seconds, rows)

    def log_started(self, what: str) -> None:
        logger.info("%s: started", what)

    def log_reused(self, stage: Stage, folder: Place) -> None:
        logger.info("%s: reused, %s", stage.name, folder.relative_to(self.path))

    def claim(self) -> None:
        """From now on the folder's own files are the view of this recipe; that of another one
        moves to recipes/, and comes back with its recipe."""
        if not self.is_claimed():
            if (self.path / RECIPE).exists():
                there = view_id((self.path / RECIPE).read_text())
                _move_view(self.path, self.path / RECIPES / there, reversed(VIEW))
            _move_view(self.path / RECIPES / self.id, self.path, VIEW)
        write_text(self.path / RECIPE, dump_recipe(self.recipe))
        write_text(self.path / GIT, code_state())
        write_json(self.path / VERSIONS, versions())
        self._note_graph(self.path)

    def _note_graph(self, view: Place) -> None:
        """Stages that earlier runs of the recipe came to stay noted until this one comes to them:
        it may be stopped before. What was found with others, of problems that a file had or of a
        model that a folder held, is not this run's."""
        before = read_json(view / GRAPH, {})
        if any(self.graph.get(name, place) != place for name, place in before.items()):
            for name in (RESULTS, CHOICE):
                (view / name).unlink()
        write_json(view / GRAPH, {**before, **self.graph})

    def is_claimed(self) -> bool:
        file = self.path / RECIPE
        return file.exists() and view_id(file.read_text()) == self.id


class RunFolder(JobFolder[Recipe]):
    """Of a distillation, or of the part of one that `verb` does."""

    def __init__(self, path: str | Place, recipe: Recipe, verb: str = DISTILL) -> None:
        super().__init__(path, recipe)
        self.stages = Stages(recipe, self.path)
        self.verb = verb

    def log_started(self, what: str) -> None:
        """With how far the run is."""
        known = ""
        with contextlib.suppress(UserError):  # of a damaged store, which its stage is to repair
            known = standing(self.recipe, self.path, self.verb)
        logger.info("%s: started%s", what, f"; {known}" if known else "")


def sizes_in(folder: Place) -> dict[str, int]:
    """The files that make a stage's result and their bytes; a store's log has its own record."""
    found = {file.relative_to(folder): file for file in folder.walk()}
    return {name: file.size() for name, file in found.items() if not _is_beside(name)}


def damaged_files(folder: Place, manifest: Mapping[str, Any]) -> list[str]:
    """What differs from the manifest, a few words for each file."""
    faults = []
    for name, size in manifest.get("files", {}).items():
        try:
            now = (folder / name).size()
        except FileNotFoundError:
            faults.append(f"{folder / name} is missing")
            continue
        if now != size:
            faults.append(f"{folder / name} has {now} of {size} bytes")
    return faults + Store(folder).lost(manifest.get("files", {}))


def _goes_on_from(training: Place) -> str:
    """Where a training that was begun goes on; "" of one that was not."""
    checkpoints = (one.name.rpartition("_")[2] for one in (training / CHECKPOINTS).list())
    steps = [int(step) for step in checkpoints if step.isdigit()]
    if steps:
        return f"it goes on from its last whole checkpoint, of step {max(steps)} or before"
    return "it had no checkpoint yet and begins anew" if (training / METRICS).is_file() else ""


def _is_beside(name: str) -> bool:
    """Notes and records of what was done, not its result."""
    top = name.partition("/")[0]
    beside = (STAGE, SECONDS, LOG, DAMAGED, SET_ASIDE, TENSORBOARD, TRACKED, PAID)
    beside += (CHECKPOINTS, POLICIES, *WANDB)
    return top in beside or top.startswith(STALL)


class Clock:
    """Seconds spent on stages that are worked on together, in this and in earlier attempts."""

    def __init__(self, *folders: Place) -> None:
        self.seconds = {
            folder: read_json(folder / SECONDS, {"seconds": 0.0})["seconds"] for folder in folders
        }
        self.start = time.monotonic()

    def note(self) -> None:
        """What was spent so far, for a reader after a kill; divided equally."""
        spent = (time.monotonic() - self.start) / len(self.seconds)
        with contextlib.suppress(OSError):  # the work itself will tell
            for folder, before in self.seconds.items():
                write_json(folder / SECONDS, {"seconds": before + spent})

    def stop(self, work: Mapping[Place, float] | None = None) -> None:
        """Divides what was spent by the `work` done for each; equally where that is not known."""
        spent, now = time.monotonic() - self.start, time.monotonic()
        work = work if work and sum(work.values()) else dict.fromkeys(self.seconds, 1.0)
        for folder in self.seconds:
            self.seconds[folder] += spent * work[folder] / sum(work.values())
            write_json(folder / SECONDS, {"seconds": self.seconds[folder]})
        self.start = now


def check_writable(run: Place) -> None:
    """UserError where nothing can be made in the folder, or where it is to be. Nothing is left."""
    if not run.is_local:
        return
    there = run.local
    while not there.exists() and there != there.parent:
        there = there.parent
    probe = there / f".probe-{uuid.uuid4().hex}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise UserError(
            f"--run-dir {run}: nothing can be made in {there}: {error.strerror}; choose another"
        ) from error


def place_of_run(run_dir: "str | Place | PathLike[str]") -> Place:
    """UserError where it is no kind of place that is known."""
    try:
        return Place(run_dir)
    except UserError as error:
        raise UserError(f"--run-dir {error}") from error


def view_id(recipe_text: str) -> str:
    """Name of a resolved recipe's folder among recipes/, whatever the layout of its text."""
    try:
        return text_digest([json.dumps(yaml.safe_load(recipe_text), sort_keys=True)])[:8]
    except yaml.YAMLError:  # a recipe that somebody spoilt is none that runs
        return text_digest([recipe_text])[:8]


def _move_view(source: Place, target: Place, names: Iterable[str]) -> None:
    """The recipe leaves a folder last and comes first: a kill between mixes no two views."""
    if not source.is_dir():
        return
    for name in names:
        if (source / name).exists() and not (target / name).exists():
            move(source / name, target / name)
