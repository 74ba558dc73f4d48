"""Evaluation rows -> accuracy, lengths, degeneracy, template adherence, all with 95 % intervals.

A row is one completion of one problem (the columns of stages/evaluate). Wrong means: strict verdict
other than correct, so unparsable and truncated completions are wrong. Pure numpy.
Legend: P problems, N completions of a problem, R resamples.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastdistill_ray.text import count_loops, rep_n

Row = dict[str, Any]
Quantity = Callable[[Row], float | None]
Z = 1.959963984540054  # of a 95 % interval
RESAMPLES = 2000
SEED = 0

NGRAM = 4
MAX_PARTS = 30
ANSWERABLE = "all with an answer"


class Estimate(NamedTuple):
    """Value and 95 % interval, null where no completion takes part, and how many problems do."""

    value: float | None
    low: float | None
    high: float | None
    num_problems: int


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
    return rep_n(row["text"], NGRAM)


def num_loops(row: Row) -> float:
    return float(count_loops(row["text"]))


def is_degenerate(row: Row) -> bool:
    return count_loops(row["text"]) > 0


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
    k = 2, 4, 8, ... judged leniently, as accuracy is.
    """
    problems = by_problem([row for row in rows if row["split"] == split])
    if not problems:
        return []
    estimates = {name: estimate(problems, quantity) for name, quantity in METRICS.items()}
    estimates["verbosity_ratio"] = verbosity_ratio(problems)
    k = 2
    while k <= min(len(completions) for completions in problems.values()):
        estimates[f"pass@{k}"] = pass_at_k(problems, k)
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


def paired_difference(rows_a: list[Row], rows_b: list[Row], metric: str) -> Estimate:
    """Mean of metric(a) - metric(b) over the problems that both answered, `num_problems` of them;
    the bootstrap draws problems, both at once.

    Where the two agree on every problem a bootstrap would be certain. Then the interval is as wide
    as the share of problems of which 2.5 % of all draws show none: 1 - 0.025^(1/P).
    """
    problems_a, problems_b = by_problem(rows_a), by_problem(rows_b)
    common = problems_a.keys() & problems_b.keys()
    if not common:
        raise ValueError(f"{metric}: the two models answered no problem in common")
    problems_a = {key: rows for key, rows in problems_a.items() if key in common}
    problems_b = {key: problems_b[key] for key in problems_a}
    sums_a, counts_a = _sums(problems_a, METRICS[metric])
    sums_b, counts_b = _sums(problems_b, METRICS[metric])
    if not (counts_a.all() and counts_b.all()):
        raise ValueError(f"{metric}: some problems have no value, so they cannot be paired")
    difference = sums_a / counts_a - sums_b / counts_b
    if metric in COMPARED and not difference.any():
        most = 1 - 0.025 ** (1 / len(difference))
        return Estimate(0.0, -most, most, len(difference))
    return _bootstrap(lambda weights: weights @ difference / len(difference), counts_a)


def estimate(problems: dict[str, list[Row]], quantity: Quantity) -> Estimate:
    """Mean over completions; Wilson for a proportion with N = 1, else a bootstrap of problems."""
    sums, counts = _sums(problems, quantity)
    values = [quantity(rows[0]) for rows in problems.values() if len(rows) == 1]
    if len(values) == len(problems) and all(isinstance(value, bool | None) for value in values):
        return wilson(int(sums.sum()), int(counts.sum()))
    return _bootstrap(lambda weights: _divide(weights @ sums, weights @ counts), counts)


def verbosity_ratio(problems: dict[str, list[Row]]) -> Estimate:
    """Mean tokens of wrong completions / mean tokens of correct ones (arXiv 2507.00054)."""
    wrong, num_wrong = _sums(problems, when_wrong(num_tokens))
    correct, num_correct = _sums(problems, when_correct(num_tokens))

    def ratio(weights: np.ndarray) -> np.ndarray:
        mean_wrong = _divide(weights @ wrong, weights @ num_wrong)
        return _divide(mean_wrong, _divide(weights @ correct, weights @ num_correct))

    return _bootstrap(ratio, num_wrong + num_correct)


def pass_at_k(problems: dict[str, list[Row]], k: int) -> Estimate:
    """Mean over problems of the unbiased 1 - C(N - c, k) / C(N, k) (arXiv 2107.03374, eq. 1)."""
    chances = np.array(
        [
            unbiased_pass_at_k(len(rows), sum(is_correct_leniently(row) for row in rows), k)
            for rows in problems.values()
        ]
    )
    ones = np.ones(len(chances))
    return _bootstrap(lambda weights: _divide(weights @ chances, weights @ ones), ones)


def unbiased_pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k of the n completions, drawn without replacement, hold a correct one."""
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k}: needs at least {k} completions, there are {n}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def wilson(successes: int, trials: int) -> Estimate:
    """Wilson's 95 % score interval of a proportion (Wilson 1927)."""
    if trials == 0:
        return Estimate(None, None, None, 0)
    share = successes / trials
    centre = share + Z**2 / (2 * trials)
    half = Z * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    scale = 1 + Z**2 / trials
    low, high = max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
    return Estimate(share, low, high, trials)


def by_problem(rows: list[Row]) -> dict[str, list[Row]]:
    """problem_id -> its completions, both in order, so that the order of rows changes nothing."""
    problems: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["problem_id"], row["k"])):
        completions = problems.setdefault(row["problem_id"], [])
        if completions and completions[-1]["k"] == row["k"]:
            raise ValueError(f"problem {row['problem_id']}: completion {row['k']} appears twice")
        completions.append(row)
    return problems


def _sums(problems: dict[str, list[Row]], quantity: Quantity) -> tuple[np.ndarray, np.ndarray]:
    """[P] sums of the quantity and [P] numbers of completions it is defined for."""
    values = [
        [value for row in rows if (value := quantity(row)) is not None]
        for rows in problems.values()
    ]
    sums = np.array([sum(each) for each in values], dtype=np.float64)
    return sums, np.array([len(each) for each in values], dtype=np.float64)


def _bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], num_completions: np.ndarray
) -> Estimate:
    """Percentile bootstrap; `statistic` maps [R, P] weights of problems to [R] values."""
    num_problems = len(num_completions)
    value = statistic(np.ones((1, num_problems)))[0]
    if np.isnan(value):
        return Estimate(None, None, None, 0)
    low, high = np.nanpercentile(statistic(_resamples(num_problems)), [2.5, 97.5])
    return Estimate(float(value), float(low), float(high), int((num_completions > 0).sum()))


@functools.lru_cache(maxsize=2)
def _resamples(num_problems: int) -> np.ndarray:
    """[R, P]: how often each problem is drawn; the same draws for every metric and model."""
    shares = np.full(num_problems, 1 / num_problems)
    return np.random.default_rng(SEED).multinomial(num_problems, shares, RESAMPLES).astype(float)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """nan where the denominator is 0."""
    result = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=result, where=denominator > 0)
