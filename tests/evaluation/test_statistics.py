"""Tests and intervals against naive computations that share nothing with them."""

import itertools
import math
import random

import numpy as np
import pytest

from fastdistill_ray.evaluation.results import adjust_for_all
from fastdistill_ray.evaluation.statistics import difference, holm, resampled


@pytest.mark.parametrize(
    ("ps", "expected"),
    [
        ([], []),
        ([0.03], [0.03]),
        # 4 x 0.005, 3 x 0.01, max(0.03, 2 x 0.03), max(0.06, 0.04)
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        # 3 x 0.012, max(0.036, 2 x 0.013), max(0.036, 0.014)
        ([0.012, 0.013, 0.014], [0.036, 0.036, 0.036]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_of_hand_computed_values(ps: list[float], expected: list[float]) -> None:
    assert holm(ps) == pytest.approx(expected)


def test_holm_rejects_what_the_closed_test_of_bonferroni_rejects() -> None:
    """A hypothesis is rejected when every set of hypotheses that holds it is, by Bonferroni."""
    rng = random.Random(0)
    for _ in range(200):
        ps = [rng.random() ** 3 for _ in range(rng.randint(1, 5))]
        adjusted = holm(ps)
        for place in range(len(ps)):
            others = [i for i in range(len(ps)) if i != place]
            sets = [
                [place, *chosen]
                for size in range(len(ps))
                for chosen in itertools.combinations(others, size)
            ]
            worst = max(min(1.0, min(ps[i] for i in one) * len(one)) for one in sets)
            assert adjusted[place] == pytest.approx(worst)


def test_p_of_a_difference_is_that_of_the_normal_limit_and_agrees_with_the_interval() -> None:
    rng = np.random.default_rng(1)
    num_clusters = 400
    for shift in (0.0, 0.03, 0.05, 0.07, 0.1):
        first = (rng.random((num_clusters, 1)) < 0.5 + shift).astype(float)
        second = (rng.random((num_clusters, 1)) < 0.5).astype(float)
        value, low, high, p = difference(first, second, np.ones(num_clusters))
        deviation = (first - second).std() / math.sqrt(num_clusters)
        normal = math.erfc(abs(value) / deviation / math.sqrt(2))
        assert p == pytest.approx(normal, abs=0.06 if normal > 0.05 else 0.012)
        assert (p < 0.05) == (low > 0 or high < 0)


def naive_pigeonhole(table: np.ndarray) -> np.ndarray:
    """Means of [C, S] values; clusters and seeds drawn one by one."""
    rng = random.Random(5)
    clusters, seeds = map(range, table.shape)
    means = []
    for _ in range(4000):
        rows, columns = rng.choices(clusters, k=len(clusters)), rng.choices(seeds, k=len(seeds))
        means.append(np.mean([table[row, column] for row in rows for column in columns]))
    return np.array(means)


@pytest.mark.parametrize("num_seeds", [1, 2, 5])
def test_interval_over_problems_and_seeds_is_that_of_drawing_both(num_seeds: int) -> None:
    rng = np.random.default_rng(num_seeds)
    chance = rng.random((30, 1)) * 0.6 + rng.random((1, num_seeds)) * 0.4
    table = (rng.random((30, num_seeds)) < chance).astype(float)
    expected = naive_pigeonhole(table)
    totals = np.stack([table, np.ones_like(table)], axis=2)
    (found,) = resampled([totals], 4000)
    means = found[:, 0] / found[:, 1]
    assert means.mean() == pytest.approx(table.mean(), abs=0.01)
    assert means.std() == pytest.approx(expected.std(), rel=0.06)
    assert np.percentile(means, [2.5, 97.5]) == pytest.approx(
        np.percentile(expected, [2.5, 97.5]), abs=0.035
    )


def test_seeds_that_differ_widen_the_interval_of_a_difference() -> None:
    """Two students of equal problems; the seeds of one lie 20 points apart."""
    rng = np.random.default_rng(3)
    base = (rng.random((200, 1)) < 0.4).astype(float)
    steady = np.repeat((rng.random((200, 1)) < 0.5).astype(float), 2, axis=1)
    apart = (rng.random((200, 2)) < np.array([[0.4, 0.6]])).astype(float)
    ones = np.ones(200)
    _, low, high, _ = difference(steady, base, ones)
    _, alone_low, alone_high, _ = difference(steady[:, :1], base, ones)
    _, wide_low, wide_high, _ = difference(apart, base, ones)
    assert (low, high) == pytest.approx((alone_low, alone_high), abs=0.006)
    assert wide_high - wide_low > 1.3 * (high - low)


def test_p_of_models_that_do_not_differ_is_below_5_percent_in_about_5_percent() -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(400):
        first, second = (rng.random((2, 60, 1)) < 0.5).astype(float)
        found.append(difference(first, second, np.ones(60))[3] < 0.05)
    assert 0.02 <= np.mean(found) <= 0.09


def test_every_comparison_by_a_metric_is_in_its_family() -> None:
    rows = [
        {"metric": metric, "split": split, "p": p}
        for metric, split, p in [
            ("accuracy", "test", 0.01),
            ("strict_accuracy", "test", 0.5),
            ("accuracy", "ood", 0.02),
            ("accuracy", "ood", 0.9),
        ]
    ]
    found = [row["p_holm"] for row in adjust_for_all(rows)]
    assert found == pytest.approx([0.03, 0.5, 0.04, 0.9])
