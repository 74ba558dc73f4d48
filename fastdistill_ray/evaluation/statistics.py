"""Intervals and tests over problems and training seeds. Pure numpy; knows no rows and no metric.

Problems made from one another, such as variants of one question, are a cluster: they are drawn
together. A table holds what the problems of a cluster, asked of the student of a seed, add to
totals. Legend: C clusters, S seeds, K totals, R resamples; a table is [C, S, K].
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054  # of a 95 % interval
TAIL = 0.025  # what a 95 % interval leaves out on each side
ENDS = (100 * TAIL, 100 * (1 - TAIL))
SAME = 1e-12
RESAMPLES = 2000
RESAMPLES_OF_A_TEST = 10_000  # the least p is 0.0002: Holm can still tell among 250 comparisons
SEED = 0
MAX_VALUES = 1 << 23  # drawn at once


class Estimate(NamedTuple):
    """Value and 95 % interval, null where no completion takes part; how many problems do, and
    clusters of them."""

    value: float | None
    low: float | None
    high: float | None
    num_problems: int
    num_clusters: int


class Difference(NamedTuple):
    """As an Estimate, with the two-sided p of a difference of 0, as it is and as Holm adjusts it
    for all comparisons made (None: not adjusted yet)."""

    value: float
    low: float
    high: float
    num_problems: int
    num_clusters: int
    p: float
    p_holm: float | None = None


def wilson(successes: int, trials: int) -> Estimate:
    """Wilson's 95 % score interval of a proportion (Wilson 1927) of problems that are not
    clustered, asked once."""
    if trials == 0:
        return Estimate(None, None, None, 0, 0)
    share = successes / trials
    centre = share + Z**2 / (2 * trials)
    half = Z * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    scale = 1 + Z**2 / trials
    low, high = max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
    return Estimate(share, low, high, trials, trials)


def resampled(tables: Sequence[np.ndarray], num_resamples: int) -> list[np.ndarray]:
    """[R, K] totals of each table, its seeds averaged, R times drawn anew with replacement.

    Clusters are drawn once for all tables, and the seeds of each table independently of them: the
    pigeonhole bootstrap (Owen 2007, doi 10.1214/07-AOAS122). It is conservative: what belongs to
    neither seed nor problem alone is counted more than once. But S seeds show on average only
    (S - 1) / S of the variance between seeds: from two or three the interval says little of others.
    """
    rng = np.random.default_rng(SEED)
    num_clusters = len(tables[0])
    rows = np.concatenate([table.reshape(num_clusters, -1) for table in tables], axis=1)
    # Clusters that add the same are drawn as one, as often as there are of them.
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    chunk = max(1, MAX_VALUES // len(distinct))
    totals = np.concatenate(
        [
            rng.multinomial(num_clusters, counts / num_clusters, min(chunk, num_resamples - start))
            @ distinct
            for start in range(0, num_resamples, chunk)
        ]
    )
    found, start = [], 0
    for _, num_seeds, num_totals in (table.shape for table in tables):
        end = start + num_seeds * num_totals
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), num_resamples)
        parts = totals[:, start:end].reshape(num_resamples, num_seeds, num_totals)
        found.append(np.einsum("rs,rsk->rk", seeds / num_seeds, parts))
        start = end
    return found


def interval(
    table: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    bounds: tuple[float, float] | None = None,
) -> tuple[float, float, float] | None:
    """(value, low, high) of a statistic of [R, K] totals by percentile bootstrap; None where it is
    not defined. `bounds`: between which it lies, of a share or of a difference of shares."""
    value = statistic(table.mean(axis=1).sum(axis=0, keepdims=True))[0]
    if np.isnan(value):
        return None
    low, high = np.nanpercentile(statistic(resampled([table], RESAMPLES)[0]), ENDS)
    if bounds and high - low < SAME:
        low, high = exact_ends(value, int(table.any(axis=(1, 2)).sum()), bounds)
    return float(value), float(low), float(high)


def exact_ends(value: float, num_clusters: int, bounds: tuple[float, float]) -> tuple[float, float]:
    """The interval of a mean within bounds where every cluster has the same value, of which a
    bootstrap would be certain: as many clusters as 2.5 % of all draws show none of may differ, a
    share of 1 - 0.025^(1/C), each by as much as there is room."""
    share = 1 - TAIL ** (1 / num_clusters)
    return value - share * (value - bounds[0]), value + share * (bounds[1] - value)


def difference(
    first: np.ndarray, second: np.ndarray, num_problems: np.ndarray
) -> tuple[float, float, float, float]:
    """(value, low, high, p) of the mean of first - second, [C, S] sums over the problems of a
    cluster, `num_problems` [C] of them; the two are paired by cluster, not by seed.

    p is two-sided and made from the draws of the interval: 2 (1 + the draws on the rarer side of 0)
    / (R + 1), and not below that of a sign test in which all clusters that differ agree: of few
    clusters a bootstrap is too sure.
    """
    value = float((first.mean(axis=1) - second.mean(axis=1)).sum() / num_problems.sum())
    counts = num_problems.astype(float)[:, None, None]
    tables = [first[:, :, None], second[:, :, None], counts]
    sums_a, sums_b, counts = resampled(tables, RESAMPLES_OF_A_TEST)
    draws = ((sums_a - sums_b) / counts)[:, 0]
    if np.ptp(draws) < SAME:
        low, high = exact_ends(value, len(first), (-1.0, 1.0))
        # The level at which that interval would end at 0; of differences of 1 that of a sign test.
        return value, low, high, min(1.0, 2 * (1 + abs(value)) ** -len(first))
    low, high = np.percentile(draws, ENDS)
    num_unlike = np.count_nonzero(np.abs(first.mean(axis=1) - second.mean(axis=1)) > SAME)
    return value, float(low), float(high), max(two_sided_p(draws), min(1.0, 2 * 0.5**num_unlike))


def two_sided_p(draws: np.ndarray) -> float:
    rarer = min((draws <= 0).sum(), (draws >= 0).sum())
    return min(1.0, float(2 * (1 + rarer) / (len(draws) + 1)))


def holm(ps: Sequence[float]) -> list[float]:
    """Each p adjusted for all of them (Holm 1979, Scandinavian Journal of Statistics 6): ascending,
    the i-th of m is multiplied by m + 1 - i, is at least the one before, and at most 1."""
    adjusted, before = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        before = max(before, min(1.0, ps[place] * (len(ps) - rank)))
        adjusted[place] = before
    return adjusted


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """nan where the denominator is 0."""
    result = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=result, where=denominator > 0)
