"""How much of the gap between a weaker writer and a ceiling its student recovers.

Performance gap recovered of Weak-to-Strong Generalization (arXiv 2312.09390, section 3):

  PGR = (student - writer) / (ceiling - writer),

of accuracies on the same problems: the student is trained on texts of the writer, the ceiling is
the same model trained on texts of teachers. 0: no better than the writer; 1: as good as the
ceiling.
"""

from typing import Any, NamedTuple

import numpy as np

from fastdistill_ray.evaluation.metrics import (
    METRICS,
    Row,
    answered_by_all_seeds,
    by_problem,
    means_of,
)
from fastdistill_ray.evaluation.statistics import ENDS, RESAMPLES, TAIL, divide, resampled

METRIC = "accuracy"


class Gap(NamedTuple):
    """Names of three models of the comparison."""

    student: str
    writer: str
    ceiling: str


def gap_recovered(gap: Gap, answers: dict[str, list[Row]], split: str) -> dict[str, Any] | None:
    """A row of results.json; None where the three answered no problem of the split in common.

    `value` is none where the ceiling is not above the writer, `low` and `high`, a 95 % interval by
    bootstrap over problems and seeds, where that may be so: then there is no gap to recover.
    `wrong_too` and `ceiling_wrong_too`: of the problems that the writer has wrong, the share that
    the student, and the ceiling, have wrong too.
    """
    answered = [by_problem([row for row in answers[name] if row["split"] == split]) for name in gap]
    common = set.intersection(*map(answered_by_all_seeds, answered))
    if not common:
        return None
    tables = [means_of(each, common, METRIC) for each in answered]
    own, weak, most = (table[:, :, 0].mean(axis=1) for table in tables)
    value = _recovered(own.sum(), weak.sum(), most.sum())
    draws = [one[:, 0] for one in resampled([table[:, :, :1] for table in tables], RESAMPLES)]
    low = high = None
    if not np.isnan(value) and (draws[2] <= draws[1]).mean() <= TAIL:
        low, high = map(float, np.nanpercentile(_recovered(*draws), ENDS))
    wrong = [_wrong(each, common) for each in answered]
    return {
        **gap._asdict(),
        "split": split,
        "value": None if np.isnan(value) else float(value),
        "low": low,
        "high": high,
        "num_problems": len(common),
        "num_clusters": len(tables[0]),
        "wrong_too": _share(wrong[0], wrong[1]),
        "ceiling_wrong_too": _share(wrong[2], wrong[1]),
    }


def _recovered(own: np.ndarray, weak: np.ndarray, most: np.ndarray) -> np.ndarray:
    """nan where there is no gap."""
    return divide(np.asarray(own - weak), np.asarray(most - weak))


def _wrong(answered: dict[tuple[str, int], list[Row]], common: set[str]) -> dict[str, float]:
    """Of each problem, the share of wrong answers over completions and seeds."""
    found: dict[str, list[bool]] = {}
    for (problem_id, _), rows in answered.items():
        if problem_id in common:
            found.setdefault(problem_id, []).extend(not METRICS[METRIC](row) for row in rows)
    return {name: sum(each) / len(each) for name, each in found.items()}


def _share(own: dict[str, float], weak: dict[str, float]) -> float | None:
    """The mean of `own` over the problems, each as often as the writer has it wrong."""
    total = sum(weak.values())
    return sum(own[name] * weak[name] for name in weak) / total if total else None
