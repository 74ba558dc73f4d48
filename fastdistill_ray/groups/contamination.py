"""Which tested problems share words in a row with the texts that students are trained on.

As GPT-3's authors count it (arXiv 2005.14165, appendix C: 13 words). Training questions that
overlap have left before (`tasks/decontamination.py`); a teacher may still write a tested problem
into its completions, as one does that was trained on it, or that invents problems of its own.
"""

import json
from typing import Any

import ray.data

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.groups.store import Store, batches_of
from fastdistill_ray.run_files import OVERLAPS, StageResult, write_json
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.decontamination import overlapping, owners_of_runs
from fastdistill_ray.tasks.problem_file import ProblemFile

Found = dict[str, str]  # a tested problem -> one group whose completions overlap it


def count_overlaps(
    groups: Place, tested: list[ProblemFile], size: int, pool: PoolKnobs, *, out: Place
) -> StageResult:
    """Looks for `size` words in a row of each tested question in the completions of kept groups.

    Rows are tested problems; those of fewer words cannot be looked for and are set aside."""

    def look(row: dict[str, Any]) -> dict[str, str]:
        return {"found": json.dumps(overlaps_in(groups / row["file"], tested, size))}

    files = [{"file": commit.file} for commit in Store(groups).commits()]
    found: Found = {}
    if files:
        dataset = ray.data.from_items(files)
        dataset.context.enable_progress_bars = False
        for row in dataset.map(look, **pool.remote_args()).iter_rows():
            found |= json.loads(row["found"])
    write_json(out / OVERLAPS, {"words": size, "found": dict(sorted(found.items()))})
    total = sum(map(len, tested))
    owners = owners_of_runs((problem for file in tested for problem in file), size)
    short = total - len(set().union(*owners.values()))
    aside = {"overlaps_training_text": len(found), "too_short": short}
    left = {why: number for why, number in aside.items() if number}
    return StageResult(total, total - sum(left.values()), left)


def overlaps_in(file: Place, tested: list[ProblemFile], size: int) -> Found:
    """Of one file of a store."""
    owners = owners_of_runs((problem for one in tested for problem in one), size)
    found: Found = {}
    for batch in batches_of(file, ["problem_id", "dropped"], ("text",), batch_size=64):
        for row in batch.to_pylist():
            if row["dropped"]:
                continue
            for completion in row["completions"]:
                for problem in overlapping(completion["text"], owners, size):
                    found[problem] = row["problem_id"]
    return found
