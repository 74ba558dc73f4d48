"""`fastdistill score RUN`: the groups of a changed recipe from what the run has, without a cluster.

It is the stage `groups` of that recipe, made on this machine alone: other rewards, verifier,
advantage or selection. The teacher is not asked. No torch, no Ray.
"""

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.accounting import count_verdicts, store_result
from fastdistill_ray.groups.reweighting import rescore
from fastdistill_ray.groups.store import Store
from fastdistill_ray.recipe.derived import judging_of
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.rewards import Scorer
from fastdistill_ray.run.folder import DRIVER, Clock, RunFolder, place_of_run
from fastdistill_ray.run.graph import changes, find, made
from fastdistill_ray.run.lease import lease
from fastdistill_ray.run.paid import asked_part, is_followed, sources_of
from fastdistill_ray.run.stages import training_problems
from fastdistill_ray.run_files import RECIPE
from fastdistill_ray.storage.place import Place


def rescore_run(run_dir: str, overrides: list[str]) -> tuple[RunFolder, Place]:
    """The run with the changed recipe as its own, and the folder of its groups.

    Where the groups there are were not complete, nor are these; `generate` goes on with them.
    """
    place = place_of_run(run_dir)
    if not (place / RECIPE).is_file():
        raise UserError(f"score {run_dir}: no run folder, it holds no {RECIPE}")
    with lease(place):
        return _rescore(run_dir, place, overrides)


def _rescore(run_dir: str, place: Place, overrides: list[str]) -> tuple[RunFolder, Place]:
    run = RunFolder(run_dir, load_recipe(place / RECIPE, overrides))
    problems = training_problems(run.path, run.recipe)
    if problems is None:
        raise UserError(
            f"score {run_dir}: its problems are others or not complete; run generate first"
        )
    stage = run.stages.groups(problems)
    sources = sources_of(run.path, stage)
    if not sources and find(run.path, stage) is None:
        old = [changes(asked_part(stage), one.dependencies) for one in made(run.path, stage.kind)]
        why = f"{min(old, key=len)[0]}: a teacher would have to be asked; " if old else ""
        raise UserError(f"score {run_dir}: {why}it holds no groups of this recipe's teachers")
    with Scorer(run.recipe.reward) as scorer:
        scorer.check()  # while the folder is not yet that of a recipe to be mended
    run.claim()
    run.enter(run.stages.problems())
    folder = run.enter(stage)
    if not run.is_complete(stage):
        clock = Clock(folder)
        followed = is_followed(run.path, stage, run.recipe)
        judging = judging_of(run.recipe)
        result = rescore(sources, problems, judging, out=folder, is_followed=followed)
        clock.stop()
        if set(Store(folder).keys()) == {one.problem_id for one in problems}:
            run.complete(stage, folder, result, clock.seconds[folder], DRIVER)
    return run, folder


def next_step(run: RunFolder, groups: Place) -> str:
    """What to type to use the groups."""
    verb = "train" if Store(groups).is_complete() else "generate"
    return f"fastdistill {verb} {run.path / RECIPE} --run-dir {run.path}"


def summary(groups: Place) -> str:
    """Groups kept and dropped, and verdicts, in one line."""
    store = Store(groups)
    result = store_result(store, 0, {})
    parts = [f"kept {result.rows_out}", *(f"{why} {n}" for why, n in result.set_aside.items())]
    verdicts = [f"{verdict} {n}" for verdict, n in count_verdicts(store).most_common()]
    return f"groups: {', '.join(parts)}; completions: {', '.join(verdicts)}"
