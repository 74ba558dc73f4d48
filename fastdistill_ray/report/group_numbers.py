"""The numbers of a store of groups, read file by file and column by column: no texts, no tokens."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastdistill_ray.groups.store import Store, batches_of
from fastdistill_ray.storage.place import Place

SCORE_FIELDS = ("scores.list.element.name", "scores.list.element.value")


class GroupNumbers(NamedTuple):
    """Every completion of the group store; flat arrays, one entry per completion."""

    rewards: np.ndarray
    advantages: np.ndarray
    num_tokens: np.ndarray
    is_correct: np.ndarray
    is_kept: np.ndarray  # its group is trained on
    num_correct: np.ndarray  # per group
    sizes: np.ndarray  # per group
    dropped: Counter[str]  # groups by reason; "" is kept
    verdicts: Counter[str]
    scores: dict[str, np.ndarray] = {}  # by name, before weights; nan where there is none


class Teacher(NamedTuple):
    """What one teacher wrote, and what that cost in money."""

    num_groups: float
    num_completions: float
    num_correct: float
    num_tokens: float
    prompt_tokens: float
    cost: float


def read_group_numbers(folder: Place) -> GroupNumbers | None:
    """The store's numbers, a batch at a time; None when no group is committed."""
    fields = ("reward", "advantage", "num_tokens", "verdict")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in (*fields, "size", "dropped")}
    scores: list[dict[str, np.ndarray]] = []
    for batch in group_batches(folder, ["dropped"], (*fields, *SCORE_FIELDS)):
        completions = batch.column("completions")
        values = completions.flatten()
        for name in fields:
            columns[name].append(values.field(name).to_numpy(zero_copy_only=False))
        scores.append(_scores(values.field("scores")))
        columns["size"].append(completions.value_lengths().to_numpy(zero_copy_only=False))
        columns["dropped"].append(batch.column("dropped").to_numpy(zero_copy_only=False))
    if not columns["size"]:
        return None
    flat = {name: np.concatenate(parts) for name, parts in columns.items()}
    sizes, is_correct = flat["size"].astype(int), flat["verdict"] == "correct"
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return GroupNumbers(
        rewards=flat["reward"].astype(float),
        advantages=flat["advantage"].astype(float),
        num_tokens=flat["num_tokens"].astype(float),
        is_correct=is_correct,
        is_kept=(flat["dropped"] == "")[owner],
        num_correct=np.bincount(owner, weights=is_correct, minlength=len(sizes)).astype(int),
        sizes=sizes,
        dropped=Counter(flat["dropped"].tolist()),
        verdicts=Counter(flat["verdict"].tolist()),
        scores=_joined(scores, columns["reward"]),
    )


def _scores(column: pa.ListArray) -> dict[str, np.ndarray]:
    """By name, a value a completion."""
    owner = np.repeat(
        np.arange(len(column)), column.value_lengths().to_numpy(zero_copy_only=False).astype(int)
    )
    flat = column.flatten()
    values = flat.field("value").to_numpy(zero_copy_only=False).astype(float)
    found = {}
    for name in pc.unique(flat.field("name")).to_pylist():
        mine = pc.equal(flat.field("name"), name).to_numpy(zero_copy_only=False)
        found[name] = np.full(len(column), np.nan)
        found[name][owner[mine]] = values[mine]
    return found


def _joined(parts: list[dict[str, np.ndarray]], like: list[np.ndarray]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: np.concatenate(
            [
                part.get(name, np.full(len(one), np.nan))
                for part, one in zip(parts, like, strict=True)
            ]
        )
        for name in names
    }


def read_teachers(folder: Place) -> dict[str, Teacher]:
    """Every teacher named in the store, in the order of its names."""
    found: dict[str, np.ndarray] = {}
    columns = ["teacher", "prompt_num_tokens", "cost"]
    for batch in group_batches(folder, columns, ("num_tokens", "verdict")):
        completions = batch.column("completions")
        sizes = completions.value_lengths().to_numpy(zero_copy_only=False).astype(int)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        flat = completions.flatten()
        is_correct = pc.equal(flat.field("verdict"), "correct").to_numpy(zero_copy_only=False)
        num_tokens = flat.field("num_tokens").to_numpy(zero_copy_only=False)
        of_groups = np.stack(
            [
                np.ones(len(sizes)),
                sizes,
                np.bincount(owner, weights=is_correct, minlength=len(sizes)),
                np.bincount(owner, weights=num_tokens, minlength=len(sizes)),
                batch.column("prompt_num_tokens").to_numpy(zero_copy_only=False),
                batch.column("cost").fill_null(0.0).to_numpy(zero_copy_only=False),
            ]
        )
        names = np.array(batch.column("teacher").to_pylist())
        for name in np.unique(names).tolist():
            sums = of_groups[:, names == name].sum(axis=1)
            found[name] = found[name] + sums if name in found else sums
    return {name: Teacher(*sums.tolist()) for name, sums in sorted(found.items())}


def group_batches(
    folder: Place, columns: list[str], fields: tuple[str, ...], batch_size: int = 4096
) -> Iterator[pa.RecordBatch]:
    """The named columns and fields of the completions of every group."""
    for commit in Store(folder).commits():
        yield from batches_of(folder / commit.file, columns, fields, batch_size)
