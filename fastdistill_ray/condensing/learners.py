"""Fresh heads trained on each set, and what they get right of the test texts.

Legend: S learners, N test texts.
"""

from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from fastdistill_ray.condensing.condensed import Condensed, generator_of, random_rows, rows_of
from fastdistill_ray.condensing.encoder import Embedded
from fastdistill_ray.condensing.heads import predicted, random_heads, with_ones
from fastdistill_ray.condensing.knobs import LearnerKnobs
from fastdistill_ray.condensing.matching import k_centres
from fastdistill_ray.condensing.points import on_points
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet, write_parquet

LEARNERS = "learners.parquet"
CONDENSED, OWN_STEPS, LM_ONLY = "condensed", "condensed, own steps", "before matching"
RANDOM, CENTRES, WHOLE = "random", "k-centre", "whole data"


class Tried(NamedTuple):
    """What the learners of a row got right: [sets, seeds, N]."""

    name: str
    size: int  # of each set
    updates: int
    is_right: Tensor


def random_subsets(data: Embedded, per_class: int, knobs: LearnerKnobs) -> list[Condensed]:
    found = []
    for number in range(knobs.sets):
        rows = random_rows(data, per_class, generator_of(knobs.seed, "random", number))
        found.append(Condensed(data.points[rows], data.labels[rows]))
    return found


def central_subset(data: Embedded, per_class: int) -> Condensed:
    """Of each class the greedy k-centres."""
    found = []
    for number in range(int(data.labels.max()) + 1):
        rows = rows_of(data.labels, number)
        found.append(rows[k_centres(data.points[rows], per_class)])
    rows = torch.cat(found)
    return Condensed(data.points[rows], data.labels[rows])


def whole(data: Embedded) -> Condensed:
    return Condensed(data.points, data.labels)


def try_sets(
    name: str,
    sets: list[Condensed],
    test: Embedded,
    knobs: LearnerKnobs,
    *,
    has_own_steps: bool = False,
) -> Tried:
    """Learners of all sets; where there is one set, as many of it as of several. Starts are the
    same for every row, and none is one that a set was fitted with.

    `has_own_steps`: with the step sizes of the set, in place of equal ones.
    """
    num_classes = max(int(labels.max()) for labels in (test.labels, *(s.labels for s in sets))) + 1
    right, updates = [], knobs.updates
    for number, one in enumerate(sets):
        seeds = knobs.seeds if len(sets) == knobs.sets else knobs.seeds * knobs.sets
        start = torch.cat(
            [_start(knobs, number, seed, num_classes, one.points) for seed in range(seeds)]
        )
        rates = [knobs.learning_rate] * knobs.updates
        if has_own_steps:
            # A set with one step size goes on with it; one with several was made for just these.
            rates = one.rates if len(one.rates) > 1 else one.rates * knobs.updates
        updates = len(rates)
        reached = on_points(start, one.points, one.targets(num_classes), rates)
        right.append(predicted(reached, with_ones(test.points)) == test.labels)
    return Tried(name, len(sets[0].labels), updates, torch.stack(right))


def _start(knobs: LearnerKnobs, number: int, seed: int, num_classes: int, points: Tensor) -> Tensor:
    shape = (1, num_classes, points.shape[1] + 1)
    return random_heads(shape, generator_of(knobs.seed, "learner", number, seed), points.dtype)


def write_tried(tried: list[Tried], file: Place) -> None:
    rows: list[dict[str, Any]] = [
        {
            "name": one.name,
            "size": one.size,
            "updates": one.updates,
            "set": number,
            "seed": seed,
            "is_right": one.is_right[number, seed].tolist(),
        }
        for one in tried
        for number in range(one.is_right.shape[0])
        for seed in range(one.is_right.shape[1])
    ]
    write_parquet(pa.Table.from_pylist(rows), file)


def read_tried(file: Place) -> list[Tried]:
    rows = read_parquet(file).to_pylist()
    found = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        num_sets = 1 + max(row["set"] for row in own)
        right = torch.tensor([row["is_right"] for row in own])
        right = right.reshape(num_sets, len(own) // num_sets, -1)
        found.append(Tried(name, own[0]["size"], own[0]["updates"], right))
    return found
