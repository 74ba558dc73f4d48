"""Which tested problems share words in a row with the texts that students are trained on.

As GPT-3's authors count it (arXiv 2005.14165, appendix C: 13 words). Training questions that
overlap have left before (`tasks/decontamination.py`); a teacher may still write a tested problem
into its completions, as one does that was trained on it, or that invents problems of its own.
"""

import json
from typing import Any, cast

import ray.data

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.cluster.queues import actor_pool
from fastdistill_ray.groups.store import Store, batches_of
from fastdistill_ray.run_files import OVERLAPS, StageResult, write_json
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.decontamination import is_short, overlaps, runs_of_words
from fastdistill_ray.tasks.problem_file import ProblemFile

Found = dict[str, str]  # a tested problem -> one group whose completions overlap it


def count_overlaps(
    groups: Place, tested: list[ProblemFile], size: int, pool: PoolKnobs, *, out: Place
) -> StageResult:
    """Looks for `size` words in a row of each tested question in the completions of kept groups.

    Rows are tested problems; a shorter question is found in its equal alone, and set aside."""
    files = [{"file": commit.file} for commit in Store(groups).commits()]
    found: Found = {}
    if files:
        dataset = ray.data.from_items(files)
        dataset.context.enable_progress_bars = False
        looked = dataset.map(
            cast(Any, LookForTested),  # Ray's types know only functions
            fn_constructor_args=(groups, tested, size),
            compute=actor_pool(pool, dataset.context),
            **pool.remote_args(),
        )
        for row in looked.iter_rows():
            found |= json.loads(row["found"])
    write_json(out / OVERLAPS, dict(sorted(found.items())))
    total = sum(map(len, tested))
    short = sum(
        is_short(problem.question, size) and problem.problem_id not in found
        for file in tested
        for problem in file
    )
    aside = {"overlaps_training_text": len(found), "too_short": short}
    left = {why: number for why, number in aside.items() if number}
    return StageResult(total, total - sum(left.values()), left)


class LookForTested:
    """Ray Data UDF: the name of a file of groups -> the tested problems that its texts overlap."""

    def __init__(self, groups: Place, tested: list[ProblemFile], size: int) -> None:
        self.groups, self.size = groups, size
        self.tested = runs_of_words((problem for file in tested for problem in file), size)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        return {"found": json.dumps(self.look(self.groups / row["file"]))}

    def look(self, file: Place) -> Found:
        found: Found = {}
        for batch in batches_of(file, ["problem_id", "dropped"], ("text",), batch_size=64):
            for row in batch.to_pylist():
                if row["dropped"]:
                    continue
                for completion in row["completions"]:
                    for problem in overlaps(completion["text"], self.tested, self.size):
                        found[problem] = row["problem_id"]
        return found
