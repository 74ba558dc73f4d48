"""What every job does before its stages: read arguments, join the cluster, check, claim the folder.

A job is `python jobs/<verb>.py RECIPE [--run-dir FOLDER] [--section.field=value ...]` on a Ray
cluster, a distillation's with [--again groups|answers|set_aside]; `fastdistill <verb>` checks the
same arguments first and then submits that.
"""

import argparse
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import (
    ActorDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
)

from fastdistill_ray.cluster.joining import joined_cluster
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.derived import reads_groups
from fastdistill_ray.recipe.loading import load_shape
from fastdistill_ray.recipe.paths import with_absolute_paths
from fastdistill_ray.recipe.tree import AnyRecipe, Recipe
from fastdistill_ray.records import Split
from fastdistill_ray.run import doctor, placement, student_checks
from fastdistill_ray.run.folder import JobFolder, RunFolder, check_writable, place_of_run
from fastdistill_ray.run.forecast import comes_to_answers, generates
from fastdistill_ray.run.lease import lease
from fastdistill_ray.run.memory import check_engines, check_memory
from fastdistill_ray.run.needed import untrained
from fastdistill_ray.run.paid import (
    AGAIN,
    ANSWERED,
    SET_ASIDE,
    ask_set_aside_again,
    check_answers_not_paid_twice,
    check_new_problems_not_paid_twice,
    check_not_paid_twice,
)
from fastdistill_ray.run.precision import check_precision
from fastdistill_ray.run.room import check_room
from fastdistill_ray.run.servers import check_asked
from fastdistill_ray.run.signals import GOES_ON, Stopped, say, signals_raise_stopped
from fastdistill_ray.run.stages import training_problems
from fastdistill_ray.run.validation import (
    check_models,
    check_problems,
    check_sources,
    faults_of_functions,
)
from fastdistill_ray.run.waiting import wait_for_nodes
from fastdistill_ray.run_files import MEMORY, write_json
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.room import causes, explain, refusal
from fastdistill_ray.tasks.problem_file import ProblemFile

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=AnyRecipe)
T = TypeVar("T", bound="AnyJob[Any]")
Folder = TypeVar("Folder", bound=JobFolder[Any])
MEMORY_ERRORS = (ObjectStoreFullError, OutOfDiskError, OutOfMemoryError)
SHORT_OF_MEMORY = "give Ray more, or set pools.*.memory_gib or fewer pools.*.workers a node"


class AnyJob(Generic[Folder]):
    """A recipe in its run folder."""

    def __init__(self, run: Folder) -> None:
        self.run = run
        self.room_needed = 0.0  # bytes, at most; known once it is checked
        self.logs = ""  # where they are, once there are workers to have some

    def claim(self) -> None:
        """From now on the folder is this recipe's: what can be known to fail was looked at."""
        self.run.claim()
        self.logs = worker_logs()


class Job(AnyJob[RunFolder]):
    """A distillation, and what the user allows to be paid for again."""

    def __init__(self, run: RunFolder, again: list[str]) -> None:
        super().__init__(run)
        self.again = again

    def check(self, problems: Mapping[Split, ProblemFile]) -> None:
        """Everything that can be known to fail, before anything expensive starts; then the folder
        is this recipe's."""
        recipe, run = self.run.recipe, self.run
        check_models(recipe)
        train = training_problems(run.path, recipe) or problems["train"]
        groups = run.stages.groups(train)
        is_asked = reads_groups(recipe) or run.verb == "generate"
        if is_asked:
            check_not_paid_twice(run.path, groups, recipe, len(train), self.again)
        if recipe.new_problems:
            stage = run.stages.new_problems(problems["train"])
            check_new_problems_not_paid_twice(run.path, stage, self.again)
        if comes_to_answers(run.verb):
            tests = [problems["test"], problems["ood"]]
            check_answers_not_paid_twice(run.path, recipe, tests, self.again)
        if SET_ASIDE in self.again:
            if not generates(run.verb):
                raise UserError(f"--again {SET_ASIDE}: {run.verb} asks no teacher; use generate")
            ask_set_aside_again(run.path, groups)
        if not run.is_complete(groups):
            check_sources(recipe)
        else:
            check_asked(run, run.verb)
        check_problems(recipe, problems)
        if not run.is_complete(groups):
            for line in faults_of_functions(recipe.reward, next(iter(train))):
                logger.warning(line)
        is_taught = run.is_complete(groups) or not (is_asked or recipe.new_problems)
        to_train = untrained(run, train)
        done = placement.Done(is_taught, not to_train, run.verb == "generate")
        placement.check_pools(recipe, ray.cluster_resources(), done)
        wait_for_nodes(recipe, done)
        placement.check_labels(recipe, [node for node in ray.nodes() if node["Alive"]], done)
        doctor.check_shared_folder(run.path)
        if to_train:
            student_checks.check_students(recipe)  # seconds: after all that takes none
        check_precision(recipe)
        check_engines(recipe, done)
        estimates = check_memory(recipe, done)
        self.room_needed = check_room(run, {**problems, "train": train})
        self.claim()
        planned = {model: estimate._asdict() for model, estimate in estimates.items()}
        write_json(run.view / MEMORY, planned)


def main(job: Callable[[Job], None]) -> None:
    """Entry of the scripts in jobs/ of a distillation, as `main_of`; a job is named as its verb."""
    parser = _parser()
    parser.add_argument(
        "--again", action="append", choices=[AGAIN, ANSWERED, SET_ASIDE], default=[]
    )
    arguments, overrides = parser.parse_known_args()
    verb = job.__name__

    def begin(place: Place, recipe: Recipe) -> Job:
        return Job(RunFolder(place, recipe, verb), arguments.again)

    _run(arguments, overrides, Recipe, begin, job)


def main_of(shape: type[R], job: Callable[[AnyJob[JobFolder[R]]], None]) -> None:
    """Entry of a script in jobs/ whose recipe has this shape: exit code 2 and one line for what
    the user can mend."""
    arguments, overrides = _parser().parse_known_args()
    _run(arguments, overrides, shape, lambda *run: AnyJob(JobFolder(*run)), job)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("recipe")
    parser.add_argument("--run-dir", default="")
    return parser


def _run(
    arguments: argparse.Namespace,
    overrides: list[str],
    shape: type[R],
    begin: Callable[[Place, R], T],
    job: Callable[[T], None],
) -> None:
    quiet()
    run = todo = None
    try:
        recipe = load_shape(arguments.recipe, overrides, shape)
        is_far = "://" in arguments.run_dir or Path(arguments.run_dir).is_absolute()
        is_copy = "runtime_resources" in Path.cwd().parts  # of a folder, on every node
        if not is_copy:
            recipe = with_absolute_paths(recipe)
        elif not is_far:
            raise UserError("--run-dir: a submitted job needs an absolute folder that nodes share")
        todo = begin(place_of_run(arguments.run_dir or Path("runs") / recipe.name), recipe)
        run = todo.run
        check_writable(run.path)
        with signals_raise_stopped(), lease(run.path):
            try:
                with joined_cluster(GOES_ON):
                    job(todo)
            except SystemExit:  # so does Ray Train at Ctrl-C, whose handler takes the place of ours
                raise Stopped(signal.SIGINT) from None
    except Stopped as stopped:
        say(f"stopped; {GOES_ON}")
        sys.exit(stopped.exit_code)
    except Exception as error:  # noqa: BLE001  each ends in a line
        needed = todo.room_needed if todo else 0.0
        line, code = explained(error, run.path if run else None, needed)
        print(f"error: {line}{todo.logs if todo else ''}", file=sys.stderr)  # noqa: T201
        sys.exit(code)


def explained(error: Exception, run: Place | None, room_needed: float) -> tuple[str, int]:
    """(a line for what ended a job, its exit code); a fault of ours is told in full before it."""
    if isinstance(error, UserError):
        return line_of(error), 2
    if run and (refused := refusal(error)):
        return f"{explain(refused, run, room_needed)}. Then {GOES_ON}", 1
    if isinstance(error, ActorDiedError):
        print(error, file=sys.stderr)  # noqa: T201
        return f"a worker cannot be kept alive, see above; {GOES_ON}", 1
    for one in causes(error):
        if isinstance(one, MEMORY_ERRORS):
            said = " ".join(str(one).split())[:300]
            return f"{type(one).__name__} of Ray: {said} ({SHORT_OF_MEMORY}); {GOES_ON}", 1
    traceback.print_exc()
    return f"{type(error).__name__}, see above; {GOES_ON}", 1


def worker_logs() -> str:
    """Where they are, to be added to a line."""
    here = ray.get_runtime_context()
    return (
        f". Logs of its workers: {here.get_temp_dir()}/{here.get_session_name()}/logs, on each node"
    )


def line_of(error: UserError) -> str:
    """What it says; one from an actor of Ray comes wrapped in that actor's traceback."""
    return str(getattr(error, "cause", None) or error)


def quiet() -> None:
    """One line per event from us; Ray, vLLM and transformers only when something is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "matplotlib", "transformers", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "WARNING")
    warnings.filterwarnings("ignore", category=FutureWarning)
    # max_task_retries has no other name in Ray 2.60.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.* is deprecated")
