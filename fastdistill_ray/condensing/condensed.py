"""What every method gives, and how it is drawn and stored."""

import hashlib
import math
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from fastdistill_ray.condensing.encoder import Embedded
from fastdistill_ray.condensing.heads import one_hot
from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet, write_parquet

SETS = "sets.parquet"


class Condensed(NamedTuple):
    """Points [P, W] of standardised embeddings with labels [P]. `rates`: step sizes that belong to
    it, one after the other, if it has any; `texts`: what each point is to a reader, if anything.
    `begun`, `ended`: what was minimised, averaged over the first and last tenth."""

    points: Tensor
    labels: Tensor
    rates: list[float] = []
    texts: list[str] = []
    begun: float = 0.0
    ended: float = 0.0

    def targets(self, num_classes: int) -> Tensor:
        return one_hot(self.labels, num_classes, self.points.dtype)


def generator_of(*parts: object) -> torch.Generator:
    """Random numbers that depend on all parts; those of other parts are others."""
    seed = int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7])
    return torch.Generator().manual_seed(seed)


def labels_of_sets(num_classes: int, per_class: int) -> Tensor:
    """[P]: each class's points follow each other."""
    return torch.arange(num_classes).repeat_interleave(per_class)


def rows_of(labels: Tensor, number: int) -> Tensor:
    return (labels == number).nonzero()[:, 0]


def random_rows(data: Embedded, per_class: int, seed: torch.Generator) -> Tensor:
    """[P] rows of a subset with so many of each class, none twice."""
    drawn = []
    for number in range(int(data.labels.max()) + 1):
        rows = rows_of(data.labels, number)
        drawn.append(rows[torch.randperm(len(rows), generator=seed)[:per_class]])
    return torch.cat(drawn)


def batch_of(data: Embedded, size: int, seed: torch.Generator) -> Embedded:
    """So many rows, drawn without replacement; all of them where there are no more."""
    if size >= len(data.labels):
        return data
    rows = torch.randperm(len(data.labels), generator=seed)[:size]
    return Embedded(data.points[rows], data.labels[rows])


def finite(loss: float, iteration: int) -> float:
    """UserError where what is minimised is no number any more."""
    if not math.isfinite(loss):
        raise UserError(
            f"method.learning_rate: what is minimised is {loss} in iteration {iteration + 1}; "
            "lower it"
        )
    return loss


def ends(losses: list[float]) -> tuple[float, float]:
    """Means of the first and last tenth."""
    tenth = max(1, len(losses) // 10)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth


def write_sets(sets: list[Condensed], file: Place) -> None:
    rows = [
        {
            "set": number,
            "label": label,
            "point": point,
            "text": one.texts[place] if one.texts else "",
            "rates": one.rates,
            "begun": one.begun,
            "ended": one.ended,
        }
        for number, one in enumerate(sets)
        for place, (label, point) in enumerate(
            zip(one.labels.tolist(), one.points.tolist(), strict=True)
        )
    ]
    write_parquet(pa.Table.from_pylist(rows), file)


def read_sets(file: Place) -> list[Condensed]:
    rows = read_parquet(file).to_pylist()
    found = []
    for number in sorted({row["set"] for row in rows}):
        own = [row for row in rows if row["set"] == number]
        texts = [row["text"] for row in own]
        found.append(
            Condensed(
                torch.tensor([row["point"] for row in own]),
                torch.tensor([row["label"] for row in own]),
                own[0]["rates"],
                texts if any(texts) else [],
                own[0]["begun"],
                own[0]["ended"],
            )
        )
    return found
