"""A run's committed completions under another reward, advantage or selection: a new run beside it.

The teacher is not asked: what was committed is judged and weighted again. A store that was not
complete is taken as far as it is, and the new run may go on asking. No torch, no Ray.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from fastdistill_ray.advantages import AdvantageKnobs, SelectionKnobs
from fastdistill_ray.config import Recipe, load_recipe
from fastdistill_ray.groups import Store
from fastdistill_ray.judging import (
    Judging,
    check_failures,
    count_verdicts,
    judge_rows,
    judging_of,
    select,
    store_result,
)
from fastdistill_ray.progress import Progress
from fastdistill_ray.records import GROUP_SCHEMA, SIGNALS
from fastdistill_ray.rewards import Scorer
from fastdistill_ray.rewards.scorer import LLM_JUDGE
from fastdistill_ray.run_dir import MANIFEST, RunDir, StageResult
from fastdistill_ray.verifiers import Judge

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


def rescore(groups: Store, judging: Judging, *, out: Path) -> StageResult:
    """Every committed group judged and weighted again, in the same order and the same files.

    Its tokens were paid for by the run they come from, so none are counted here.
    """
    store = Store(out)
    store.recover()
    done = set(store.keys())
    total = sum(len(commit.keys) for commit in groups.commits())
    progress = Progress("score groups", total, done=len(done))
    with Judge(judging.reward.verifier) as judge, Scorer(judging.reward, out / LLM_JUDGE) as scorer:
        for table in _missing(groups, done):
            rows = judge_rows(_without_signals(table), judging, judge, scorer)
            commit = store.write(_with_signals(rows, table))
            store.append(commit)
            progress.advance(len(commit.keys), commit.num_tokens)
    check_failures(count_verdicts(store), judging.reward.max_failed_share, store)
    result = store_result(store, total, {})
    return replace(result, prompt_tokens=0, completion_tokens=0, facts={})


def reselect(
    groups: Path, selection: SelectionKnobs, advantage: AdvantageKnobs, tau: float, *, out: Path
) -> StageResult:
    """A store of the same groups with other completions selected; judgements are kept."""
    store = Store(out)
    store.recover()
    for table in _missing(Store(groups), set(store.keys())):
        rows = [select(row, selection, advantage, tau) for row in _without_signals(table)]
        store.append(store.write(_with_signals(rows, table)))
    dropped = Counter(reason for commit in store.commits() for reason in commit.dropped)
    kept = dropped.pop("", 0)
    if not kept:
        raise ValueError(
            f"selection.group_size: none of the groups is kept with {selection.group_size} "
            f"completions ({dict(dropped)})"
        )
    return StageResult(kept + dropped.total(), kept, dict(dropped))


def _missing(groups: Store, done: set[str]) -> Iterator[pa.Table]:
    for table in groups.tables():
        is_missing = [key not in done for key in table[groups.key].to_pylist()]
        if any(is_missing):
            yield table.filter(pa.array(is_missing))


def _without_signals(table: pa.Table) -> list[dict[str, Any]]:
    """What was captured of each token stays an Arrow array."""
    return table.drop_columns([name for name, _ in SIGNALS]).to_pylist()


def _with_signals(rows: list[dict[str, Any]], table: pa.Table) -> pa.Table:
    made = pa.Table.from_pylist(rows, schema=GROUP_SCHEMA)
    for name, _ in SIGNALS:
        made = made.set_column(made.schema.get_field_index(name), name, table[name])
    return made


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
