"""What every job does before its stages: read arguments, join the cluster, check, claim the folder.

A job is `python jobs/<verb>.py RECIPE [--run-dir FOLDER] [--section.field=value ...]` on a Ray
cluster; `fastdistill <verb>` checks the same arguments first and then submits that.
"""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import ray
from ray.exceptions import ActorDiedError

from fastdistill_ray.recipe.derived import students
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.records import Problem, Split
from fastdistill_ray.run import doctor
from fastdistill_ray.run.folder import RunDir
from fastdistill_ray.run_files import write_text


class Job:
    """A recipe in its run folder."""

    def __init__(self, recipe: Recipe, run: RunDir) -> None:
        self.recipe, self.run = recipe, run

    def check(self, problems: Mapping[Split, Collection[Problem]]) -> None:
        """Everything that can be known to fail, before anything expensive starts."""
        doctor.check_packages(self.recipe)
        doctor.check_models(self.recipe)
        if not self.run.is_complete("groups"):
            doctor.check_rewards(self.recipe)
            doctor.check_endpoints(self.recipe)
        doctor.check_prompts(self.recipe, problems)
        doctor.check_pools(self.recipe, ray.cluster_resources())
        doctor.check_labels(self.recipe, [node["Labels"] for node in ray.nodes() if node["Alive"]])
        doctor.check_shared_folder(self.run.path)
        plans = doctor.check_memory(self.recipe)
        planned = {model: plan._asdict() for model, plan in plans.items()}
        write_text(self.run.path / "memory.json", json.dumps(planned, indent=1))

    def training_stages(self) -> list[str]:
        return [stage for student in students(self.recipe) for stage in student.stages]


def main(job: Callable[[Job], None]) -> None:
    """Entry of the scripts in jobs/: exit code 2 and one line for what the user can mend."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("recipe")
    parser.add_argument("--run-dir", default="")
    arguments, overrides = parser.parse_known_args()
    quiet()
    try:
        recipe = load_recipe(arguments.recipe, overrides)
        run_dir = Path(arguments.run_dir or Path("runs") / recipe.name)
        if not run_dir.is_absolute() and "runtime_resources" in Path.cwd().parts:
            raise ValueError("--run-dir: a submitted job needs an absolute folder that nodes share")
        run = RunDir(str(run_dir), recipe)
        ray.init(logging_level=logging.ERROR, log_to_driver=False)  # ours say what matters
        job(Job(recipe, run))
    except ValueError as error:
        if not _is_ours(error):
            raise
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except ActorDiedError as error:
        print(  # noqa: T201
            f"{error}\nerror: an engine cannot be kept alive, see above and the logs of Ray on its "
            "node (ray logs). Finished work is kept: the same command goes on from there",
            file=sys.stderr,
        )
        sys.exit(1)


def _is_ours(error: BaseException) -> bool:
    """Whether our own code raised it: then its line says it all."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return bool(trace) and trace.tb_frame.f_globals["__name__"].startswith("fastdistill_ray")


def quiet() -> None:
    """One line per event from us; Ray, vLLM and transformers only when something is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "matplotlib", "transformers", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "WARNING")
    warnings.filterwarnings("ignore", category=FutureWarning)
    # max_concurrency of asynchronous actors has no other name in Ray 2.60.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.* is deprecated")
