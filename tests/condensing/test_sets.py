"""Condensed sets of a toy task: they must win there, and depend on their seed alone."""

import pytest
import torch

from fastdistill_ray.condensing.condensed import generator_of, read_sets, write_sets
from fastdistill_ray.condensing.encoder import Embedded
from fastdistill_ray.condensing.knobs import DatasetDistillation, LearnerKnobs, Mtt
from fastdistill_ray.condensing.learners import (
    Tried,
    central_subset,
    random_subsets,
    try_sets,
    whole,
)
from fastdistill_ray.condensing.points import distil_dataset, match_trajectories
from fastdistill_ray.condensing.report import _accuracy
from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.place import Place

WIDTH, CLASSES = 20, 3
LEARNERS = LearnerKnobs(sets=2, seeds=2, updates=100)
METHODS = {
    "dataset_distillation": (
        distil_dataset,
        DatasetDistillation(iterations=150, decay_every=100, learning_rate=0.05),
    ),
    "mtt": (match_trajectories, Mtt(iterations=150, experts=5, learning_rate=1.0)),
}


def gaussians(count: int, seed: str) -> Embedded:
    """Classes whose points lie around a centre each, so wide that one point says little of it."""
    centres = torch.randn(CLASSES, WIDTH, generator=generator_of("centres"))
    labels = torch.arange(count) % CLASSES
    spread = 2 * torch.randn(count, WIDTH, generator=generator_of(seed))
    return Embedded(centres[labels] + spread, labels)


TRAIN, TEST = gaussians(300, "train"), gaussians(600, "test")


def accuracy(sets, **options) -> float:
    return try_sets("", sets, TEST, LEARNERS, **options).is_right.double().mean().item()


@pytest.mark.parametrize("name", METHODS)
def test_one_point_a_class_beats_random_and_central_ones_where_classes_are_wide(name):
    condense, knobs = METHODS[name]
    sets = [condense(knobs, TRAIN, generator_of(name, number)) for number in range(2)]
    assert all(one.ended < one.begun / 2 for one in sets)
    assert len(sets[0].labels) == CLASSES and sets[0].labels.bincount().tolist() == [1] * CLASSES
    best = max(accuracy(random_subsets(TRAIN, 1, LEARNERS)), accuracy([central_subset(TRAIN, 1)]))
    assert accuracy(sets) > best + 0.05
    assert accuracy(sets, has_own_steps=True) > best + 0.05
    assert accuracy([whole(TRAIN)]) > 0.8


@pytest.mark.parametrize("name", METHODS)
def test_a_set_depends_on_its_seed_and_on_nothing_else(name, tmp_path):
    condense, knobs = METHODS[name]
    knobs = knobs.model_copy(update={"iterations": 5})
    first, again, other = (condense(knobs, TRAIN, generator_of(seed)) for seed in "aab")
    assert torch.equal(first.points, again.points) and first.rates == again.rates
    assert not torch.equal(first.points, other.points)
    write_sets([first, other], Place(tmp_path / "sets.parquet"))
    for kept, made in zip(read_sets(Place(tmp_path / "sets.parquet")), (first, other), strict=True):
        assert (
            torch.equal(kept.points, made.points) and kept.labels.tolist() == made.labels.tolist()
        )
        assert (kept.rates, kept.texts, kept.ended) == (made.rates, made.texts, made.ended)


def test_starts_of_learners_are_new_ones_and_the_same_for_every_row():
    sets = random_subsets(TRAIN, 2, LEARNERS)
    assert torch.equal(
        try_sets("a", sets, TEST, LEARNERS).is_right, try_sets("b", sets, TEST, LEARNERS).is_right
    )
    drawn = [generator_of(0, "learner", number, seed) for number in range(2) for seed in range(2)]
    drawn += [generator_of(0, "condense", number) for number in range(2)]
    assert len({one.initial_seed() for one in drawn}) == len(drawn)
    assert try_sets("", sets[:1], TEST, LEARNERS).is_right.shape == (1, 4, 600)


def test_points_that_run_away_are_a_line_and_no_result():
    with pytest.raises(UserError, match=r"method\.learning_rate: .* lower it"):
        match_trajectories(Mtt(iterations=50, experts=5, learning_rate=1e6), TRAIN, generator_of(0))


def test_row_that_gets_nothing_right_has_an_interval_and_classes_are_those_of_the_sets():
    tried = Tried("", 3, 1, torch.zeros(2, 2, 50, dtype=torch.bool))
    found = _accuracy(tried)
    assert found["value"] == 0 and 0 <= found["low"] <= found["high"] < 0.1
    without_last = Embedded(TEST.points, TEST.labels.clamp(max=CLASSES - 2))
    assert try_sets("", random_subsets(TRAIN, 1, LEARNERS), without_last, LEARNERS)
