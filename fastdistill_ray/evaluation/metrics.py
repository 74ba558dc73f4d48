"""Evaluation rows -> accuracy, lengths, degeneracy, template adherence, all with 95 % intervals.

A row is one completion of one problem by the student of one training seed: what `measure` leaves
of the columns of answers.parquet, `cluster` (empty: the problem is its own) and `training_seed` (of
a model that was not trained, any one). Wrong means: strict verdict other than correct, so
unparsable and truncated completions are wrong. Pure numpy. Legend: as in statistics.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from fastdistill_ray.evaluation.statistics import (
    Difference,
    Estimate,
    difference,
    divide,
    interval,
    wilson,
)
from fastdistill_ray.text import count_loops, rep_n

Row = dict[str, Any]
Quantity = Callable[[Row], float | None]
# (problem_id, training seed) -> its completions, one after the other
Answered = dict[tuple[str, int], list[Row]]
# (a sum, its number of completions) of each, once or twice: what totals are made of
Measured = Mapping[tuple[str, int], tuple[float, ...]]

NGRAM = 4
MEASURED_OF = [  # columns of answers.parquet, beside the text
    *("problem_id", "split", "k", "reference", "verdict", "lenient_verdict", "num_tokens"),
    *("finish_reason", "format_think", "format_answer", "format_box", "format_whole"),
]
MAX_PARTS = 30
ANSWERABLE = "all with an answer"


def measure(row: Row) -> Row:
    """A row without its text: what is said of that takes its place."""
    kept = {name: row[name] for name in MEASURED_OF}
    return {**kept, "rep_4": rep_n(row["text"], NGRAM), "num_loops": count_loops(row["text"])}


def is_correct(row: Row) -> bool:
    return row["verdict"] == "correct"


def is_correct_leniently(row: Row) -> bool:
    return row["lenient_verdict"] == "correct"


def is_truncated(row: Row) -> bool:
    return row["finish_reason"] == "length"


def is_ended_loop(row: Row) -> bool:
    """Ended by the engine because it said the same again and again."""
    return row["finish_reason"] == "repetition"


def num_tokens(row: Row) -> float:
    return float(row["num_tokens"])


def repetition(row: Row) -> float:
    return row["rep_4"]


def num_loops(row: Row) -> float:
    return float(row["num_loops"])


def is_degenerate(row: Row) -> bool:
    return row["num_loops"] > 0


def when_correct(quantity: Quantity) -> Quantity:
    return lambda row: quantity(row) if is_correct(row) else None


def when_wrong(quantity: Quantity) -> Quantity:
    return lambda row: None if is_correct(row) else quantity(row)


# A metric is the mean of a quantity over the completions for which it is not None; a quantity of
# type bool makes it a proportion.
QUANTITIES: dict[str, Quantity] = {
    "template_adherence": lambda row: bool(row["format_whole"]),
    "template_think": lambda row: bool(row["format_think"]),
    "template_answer": lambda row: bool(row["format_answer"]),
    "template_box": lambda row: bool(row["format_box"]),
    "truncation_rate": is_truncated,
    "loop_end_rate": is_ended_loop,
    "mean_tokens": num_tokens,
    "rep_4": repetition,
    "degenerate_rate": is_degenerate,
    "mean_loops": num_loops,
}
METRICS: dict[str, Quantity] = {
    "accuracy": is_correct_leniently,
    "strict_accuracy": is_correct,
    **QUANTITIES,
    **{f"{name}_correct": when_correct(quantity) for name, quantity in QUANTITIES.items()},
    **{f"{name}_wrong": when_wrong(quantity) for name, quantity in QUANTITIES.items()},
}
COMPARED = ("accuracy", "strict_accuracy")


def summarize(rows: list[Row], model: str, split: str) -> list[dict[str, Any]]:
    """The rows of results.json for one model and split; rows of other splits are left out.

    Besides METRICS: verbosity_ratio and, where every problem has 2 or more completions, pass@k for
    k = 2, 4, 8, ... judged leniently, as accuracy is. Several training seeds are averaged.
    """
    answered = by_problem([row for row in rows if row["split"] == split])
    if not answered:
        return []
    estimates = {name: estimate(answered, quantity) for name, quantity in METRICS.items()}
    estimates["verbosity_ratio"] = verbosity_ratio(answered)
    k = 2
    while k <= min(len(completions) for completions in answered.values()):
        estimates[f"pass@{k}"] = pass_at_k(answered, k)
        k *= 2
    return [
        {"model": model, "split": split, "metric": name, **result._asdict()}
        for name, result in estimates.items()
    ]


def accuracy_by_part(rows: list[Row], model: str, split: str) -> list[dict[str, Any]]:
    """Accuracy of each sort of problem: the part of the id before the last, as task/part/number.

    Where some references are the word None (problems without an answer), also of all others. Empty
    where the split is of one sort.
    """
    parts: dict[str, list[Row]] = {}
    for row in rows:
        if row["split"] == split:
            name = row["problem_id"].split("/")[-2] if row["problem_id"].count("/") > 1 else ""
            parts.setdefault(name, []).append(row)
    if len(parts) < 2 or len(parts) > MAX_PARTS:
        return []
    answerable = [row for part in parts.values() for row in part if row["reference"] != "None"]
    if len(answerable) < sum(len(part) for part in parts.values()):
        parts[ANSWERABLE] = answerable
    return [
        {
            **{"model": model, "split": split, "part": name},
            **estimate(by_problem(part), METRICS["accuracy"])._asdict(),
        }
        for name, part in parts.items()
    ]


def accuracy_by_seed(rows: list[Row], model: str, split: str) -> list[dict[str, Any]]:
    """Accuracy of the student of each seed, with an interval over problems alone; empty where there
    is one seed."""
    seeds = sorted({row["training_seed"] for row in rows})
    own = {
        seed: [row for row in rows if (row["training_seed"], row["split"]) == (seed, split)]
        for seed in seeds
        if len(seeds) > 1
    }
    return [
        {
            **{"model": model, "split": split, "seed": seed},
            **estimate(by_problem(found), METRICS["accuracy"])._asdict(),
        }
        for seed, found in own.items()
        if found
    ]


def compare_rows(
    rows: list[Row], minus_rows: list[Row], *, model: str, minus: str, split: str
) -> list[dict[str, Any]]:
    """The differences of results.json: `model` minus `minus` on the same problems."""
    first = [row for row in rows if row["split"] == split]
    second = [row for row in minus_rows if row["split"] == split]
    if not {row["problem_id"] for row in first} & {row["problem_id"] for row in second}:
        return []
    return [
        {
            "model": model,
            "minus": minus,
            "split": split,
            "metric": metric,
            **paired_difference(first, second, metric)._asdict(),
        }
        for metric in COMPARED
    ]


def paired_difference(rows_a: list[Row], rows_b: list[Row], metric: str) -> Difference:
    """Mean of metric(a) - metric(b) over the problems that both answered, in every seed that they
    were trained with; problems, or clusters of them, are drawn for both at once."""
    answered_a, answered_b = by_problem(rows_a), by_problem(rows_b)
    common = answered_by_all_seeds(answered_a) & answered_by_all_seeds(answered_b)
    if not common:
        raise ValueError(f"{metric}: the two models answered no problem in common")
    means_a, means_b = (means_of(each, common, metric) for each in (answered_a, answered_b))
    sums_a, sums_b = means_a[:, :, 0], means_b[:, :, 0]
    num_problems = means_a[:, 0, 1]
    found = difference(sums_a, sums_b, num_problems)
    return Difference(*found[:3], len(common), len(num_problems), found[3])


def answered_by_all_seeds(answered: Answered) -> set[str]:
    """The problems that the student of every seed has answered."""
    seeds = {seed for _, seed in answered}
    ids = {problem_id for problem_id, _ in answered}
    return {one for one in ids if all((one, seed) in answered for seed in seeds)}


def means_of(answered: Answered, common: set[str], metric: str) -> np.ndarray:
    """[C, S, 2]: sum of the means of the common problems, and number of these problems."""
    measured = {}
    for key, rows in answered.items():
        if key[0] in common:
            total, number = _sums(rows, METRICS[metric])
            if not number:
                raise ValueError(f"{metric}: some problems have no value, so they cannot be paired")
            measured[key] = (total / number, 1.0)
    return tabulate(answered, measured)


def estimate(answered: Answered, quantity: Quantity) -> Estimate:
    """Mean over completions. Of a proportion whose problems were asked once, of one seed, and are
    not clustered: Wilson; else a bootstrap, which is never certain of a proportion."""
    values = {key: [quantity(row) for row in rows] for key, rows in answered.items()}
    is_proportion = all(isinstance(one, bool | None) for each in values.values() for one in each)
    is_asked_once = all(len(each) == 1 for each in values.values())
    known = {key: [one for one in each if one is not None] for key, each in values.items()}
    measured = {key: (float(sum(each)), float(len(each))) for key, each in known.items()}
    if is_proportion and is_asked_once and num_clusters(answered) == len(answered):
        return wilson(*(int(sum(column)) for column in zip(*measured.values(), strict=True)))
    return _estimate(answered, measured, _ratio, (0.0, 1.0) if is_proportion else None)


def verbosity_ratio(answered: Answered) -> Estimate:
    """Mean tokens of wrong completions / mean tokens of correct ones (arXiv 2507.00054)."""
    measured = {
        key: (*_sums(rows, when_wrong(num_tokens)), *_sums(rows, when_correct(num_tokens)))
        for key, rows in answered.items()
    }
    return _estimate(
        answered, measured, lambda totals: divide(_ratio(totals[:, :2]), _ratio(totals[:, 2:]))
    )


def pass_at_k(answered: Answered, k: int) -> Estimate:
    """Mean over problems of the unbiased 1 - C(N - c, k) / C(N, k) (arXiv 2107.03374, eq. 1)."""
    measured = {
        key: (unbiased_pass_at_k(len(rows), sum(map(is_correct_leniently, rows)), k), 1.0)
        for key, rows in answered.items()
    }
    return _estimate(answered, measured, _ratio, (0.0, 1.0))


def unbiased_pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k of the n completions, drawn without replacement, hold a correct one."""
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k}: needs at least {k} completions, there are {n}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def by_problem(rows: list[Row]) -> Answered:
    """All in order, so that the order of rows changes nothing."""
    answered: Answered = {}
    for row in sorted(rows, key=lambda row: (row["problem_id"], row["training_seed"], row["k"])):
        completions = answered.setdefault((row["problem_id"], row["training_seed"]), [])
        if completions and completions[-1]["k"] == row["k"]:
            raise ValueError(f"problem {row['problem_id']}: completion {row['k']} appears twice")
        completions.append(row)
    return answered


def tabulate(answered: Answered, measured: Measured) -> np.ndarray:
    """[C, S, K]: what the problems of each cluster add up to for each seed."""
    clusters = {name: place for place, name in enumerate(_clusters(answered, measured))}
    seeds = {seed: place for place, seed in enumerate(sorted({seed for _, seed in measured}))}
    table = np.zeros((len(clusters), len(seeds), len(next(iter(measured.values())))))
    for key, values in measured.items():
        table[clusters[_cluster(answered, key)], seeds[key[1]]] += values
    return table


def num_clusters(answered: Answered) -> int:
    return len(_clusters(answered, answered))


def _clusters(answered: Answered, keys: Iterable[tuple[str, int]]) -> list[str]:
    return sorted({_cluster(answered, key) for key in keys})


def _cluster(answered: Answered, key: tuple[str, int]) -> str:
    return answered[key][0]["cluster"] or key[0]


def _estimate(
    answered: Answered,
    measured: Measured,
    statistic: Callable[[np.ndarray], np.ndarray],
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    found = interval(tabulate(answered, measured), statistic, bounds)
    if found is None:
        return Estimate(None, None, None, 0, 0)
    taking_part = [key for key, values in measured.items() if any(values[1::2])]
    num_problems = len({problem_id for problem_id, _ in taking_part})
    return Estimate(*found, num_problems, len(_clusters(answered, taking_part)))


def _sums(rows: list[Row], quantity: Quantity) -> tuple[float, float]:
    """Sum of the quantity and number of completions it is defined for."""
    values = [value for row in rows if (value := quantity(row)) is not None]
    return float(sum(values)), float(len(values))


def _ratio(totals: np.ndarray) -> np.ndarray:
    return divide(totals[:, 0], totals[:, 1])
