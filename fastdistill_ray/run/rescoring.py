"""A run's completions under another reward, advantage or selection: a new run beside it."""

import shutil
from pathlib import Path

from fastdistill_ray.groups.accounting import count_verdicts, store_result
from fastdistill_ray.groups.reweighting import rescore
from fastdistill_ray.groups.store import Store
from fastdistill_ray.recipe.derived import judging_of
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards import Scorer
from fastdistill_ray.rewards.scorer import LLM_JUDGE
from fastdistill_ray.run.folder import RunDir
from fastdistill_ray.run_files import MANIFEST

MAKERS = ("task", "teacher", "teachers", "sampling")  # sections that made the completions


def rescore_run(source: str, output: str, overrides: list[str]) -> RunDir:
    """A new run folder with the problems and the re-scored groups of `source`."""
    old = Path(source).absolute()
    recipe_file = old / "recipe.yaml"
    if not recipe_file.is_file():
        raise ValueError(f"score {source}: no run folder, it holds no recipe.yaml")
    made_by = load_recipe(str(recipe_file), [])
    recipe = load_recipe(str(recipe_file), overrides)
    if changed := [name for name in MAKERS if getattr(recipe, name) != getattr(made_by, name)]:
        raise ValueError(
            f"--{changed[0]}: the completions of {source} were made with another; the teacher is "
            f"not asked again here, so only sections other than {', '.join(MAKERS)} can change"
        )
    groups = Store(old / "stages" / "groups")
    if next(groups.commits(), None) is None:
        raise ValueError(f"score {source}: no groups are committed in it; run generate first")
    if Path(output).absolute() == old:
        raise ValueError(f"--output {output}: it is the run itself; name a new folder")
    with Scorer(recipe.reward) as scorer:
        scorer.check()  # while no folder is made that would hold the recipe to be mended
    run = RunDir(output, recipe)
    _copy_problems(old, run)
    _copy_grades(groups.folder / LLM_JUDGE, run.folder("groups") / LLM_JUDGE)
    _rescore_groups(groups, recipe, run)
    return run


def _rescore_groups(groups: Store, recipe: Recipe, run: RunDir) -> None:
    if groups.is_complete():
        run.stage("groups", rescore, groups, judging_of(recipe))
        return
    run.folder("groups").mkdir(parents=True, exist_ok=True)
    rescore(groups, judging_of(recipe), out=run.folder("groups"))


def _copy_problems(old: Path, run: RunDir) -> None:
    source, target = old / "stages" / "problems", run.folder("problems")
    if (target / MANIFEST).exists():
        return
    if not (source / MANIFEST).exists():
        raise ValueError(f"score {old}: its problems are not complete; run generate first")
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=lambda *_: [MANIFEST])
    shutil.copy2(source / MANIFEST, target / MANIFEST)  # last: it says that the rest is there


def _copy_grades(source: Path, target: Path) -> None:
    """What a model behind an endpoint was paid for is not asked for again."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)


def next_step(run: RunDir) -> str:
    """What to type to use the groups."""
    verb = "train" if run.is_complete("groups") else "generate"
    return f"fastdistill {verb} {run.path / 'recipe.yaml'} --run-dir {run.path}"


def summary(run: RunDir) -> str:
    """Groups kept and dropped, and verdicts, in one line."""
    store = Store(run.folder("groups"))
    result = store_result(store, 0, {})
    groups = [f"kept {result.rows_out}", *(f"{why} {n}" for why, n in result.set_aside.items())]
    verdicts = [f"{verdict} {n}" for verdict, n in count_verdicts(store).most_common()]
    return f"groups: {', '.join(groups)}; completions: {', '.join(verdicts)}"
