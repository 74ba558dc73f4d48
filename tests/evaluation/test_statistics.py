"""Tests and intervals against naive computations that share nothing with them."""

import itertools
import math
import random

import numpy as np
import pytest

from fastdistill_ray.evaluation.results import adjust_for_all
from fastdistill_ray.evaluation.statistics import difference, holm


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
