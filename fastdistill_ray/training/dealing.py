"""A step's groups -> the micro-batches of every rank: as many on each, and none that waits long.

Pure numpy, and the same on every rank. Ranks gather weights for one micro-batch at a time,
together, so that a step takes the sum over its micro-batches of the rank with the most work in
each. Groups go to the micro-batch with the least work, the largest first; where one is too large
for that, it is split by completions, and its prompt is computed once more, unless its completions
are compared with each other. A completion is never split. The loss is a sum over completions whose
coefficients are constants, so it does not change.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fastdistill_ray.training.packing import (
    TrainGroup,
    num_packed_tokens,
    num_padded_tokens,
    row_lengths,
)

FINER = (1.0, 0.5, 0.25, 0.0)  # sizes of parts that are tried, of a micro-batch's mean
GOOD_ENOUGH = 1.02  # of a step in which no rank waits


class Work(NamedTuple):
    """Operations of the training."""

    token: float  # of a token in the blocks
    target: float  # of a token in the head
    pair: float  # of a token and one it sees


class Piece(NamedTuple):
    """A group, or a part of it."""

    group: TrainGroup
    place: int  # in the step
    rows: int
    longest: int  # row
    size: int  # tokens
    targets: int
    pairs: float


class Dealt(NamedTuple):
    bins: list[list[Piece]]
    work: np.ndarray  # of each bin

    def step(self, world_size: int) -> float:
        """Work of the fullest rank in each round, the bins with the most work together."""
        return float(np.sort(self.work)[::-1][::world_size].sum())


def deal(
    groups: list[TrainGroup],
    *,
    world_size: int,
    micro_batch_tokens: int,
    shared_prompt: bool,
    work: Work,
    whole: bool = False,
) -> list[list[list[TrainGroup]]]:
    """The parts of groups in each micro-batch of each rank, or whole groups; some of the last may
    be empty."""
    if world_size == 1:
        bins = first_fit(groups, micro_batch_tokens, shared_prompt, whole)
        return [bins or [[]]]
    size = num_packed_tokens if shared_prompt else num_padded_tokens

    def try_parts(limit: float) -> Dealt:
        pieces = [
            _piece(part, place, shared_prompt)
            for place, group in enumerate(groups)
            for part in split(group, int(limit), size, whole)
        ]
        return _balance(pieces, world_size, micro_batch_tokens, shared_prompt, work)

    best = try_parts(micro_batch_tokens)
    mean = sum(piece.size for members in best.bins for piece in members) / len(best.bins)
    for share in FINER:
        if best.step(world_size) <= GOOD_ENOUGH * best.work.sum() / world_size:
            break
        finer = try_parts(min(micro_batch_tokens, share * mean))
        if finer.step(world_size) < best.step(world_size):
            best = finer
    return _to_ranks(best, world_size)


def first_fit(
    groups: list[TrainGroup], micro_batch_tokens: int, shared_prompt: bool, whole: bool = False
) -> list[list[TrainGroup]]:
    """Micro-batches of at most that many tokens, padding included.

    A group larger than that is split by completions, each part with the prompt, but where groups
    are to stay whole; only what is too long by itself has a larger micro-batch.
    """
    size = num_packed_tokens if shared_prompt else num_padded_tokens
    bins: list[list[TrainGroup]] = []
    parts = (part for one in groups for part in split(one, micro_batch_tokens, size, whole))
    for group in parts:
        for members in bins:
            if size([*members, group]) <= micro_batch_tokens:
                members.append(group)
                break
        else:
            bins.append([group])
    return bins


def split(
    group: TrainGroup,
    micro_batch_tokens: int,
    size: Callable[[list[TrainGroup]], int],
    whole: bool = False,
) -> Iterator[TrainGroup]:
    """The group, or parts of it that are each as large as fits where it need not be whole."""
    if whole:
        yield group
        return
    part = group._replace(completions=[])
    for place, completion in enumerate(group.completions):
        longer = part._replace(completions=[*part.completions, completion])
        if part.completions and size([longer]) > micro_batch_tokens:
            yield part
            longer = group._replace(completions=[completion], first=place)
        part = longer
    yield part


def _piece(group: TrainGroup, place: int, shared_prompt: bool) -> Piece:
    lengths = row_lengths([group])
    targets = sum(len(completion.token_ids) for completion in group.completions)
    prompt = len(group.prompt_ids)
    if not shared_prompt:
        size = num_padded_tokens([group])
        return Piece(group, place, len(lengths), max(lengths), size, targets, 0.0)
    own = sum(len(one.token_ids) ** 2 for one in group.completions)
    pairs = prompt**2 / 2 + targets * prompt + own / 2
    return Piece(group, place, 1, 0, prompt + targets, targets, pairs)


def _balance(
    pieces: list[Piece], world_size: int, budget: int, shared_prompt: bool, work: Work
) -> Dealt:
    """Into as few rounds of a micro-batch on each rank as they fit."""
    ordered = sorted(pieces, key=lambda piece: -_work(piece, work))
    size = sum(piece.size for piece in pieces)
    # A completion larger than a micro-batch has one alone: never more of them than pieces.
    least = min(-(-size // (world_size * budget)), -(-len(pieces) // world_size))
    rounds = max(1, least)
    while True:
        dealt = _fill(ordered, rounds * world_size, budget, shared_prompt, work)
        if dealt:
            return dealt
        rounds += 1


def _work(piece: Piece, work: Work) -> float:
    pairs = piece.pairs or piece.size * piece.longest / 2
    return work.token * piece.size + work.target * piece.targets + work.pair * pairs


def _fill(
    ordered: list[Piece], num_bins: int, budget: int, shared_prompt: bool, work: Work
) -> Dealt | None:
    """None where a piece fits into none of so many bins; one by itself fits into an empty one."""
    bins: list[list[Piece]] = [[] for _ in range(num_bins)]
    rows, longest, size, targets, pairs, load = np.zeros((6, num_bins))
    for piece in ordered:
        if shared_prompt:
            new_rows, new_longest = rows + 1, longest
            new_size, new_pairs = size + piece.size, pairs + piece.pairs
        else:
            new_rows, new_longest = rows + piece.rows, np.maximum(longest, piece.longest)
            new_size = new_rows * new_longest
            new_pairs = new_size * new_longest / 2
        new_targets = targets + piece.targets
        new_load = work.token * new_size + work.target * new_targets + work.pair * new_pairs
        fits = (new_size <= budget) | (rows == 0)
        if not fits.any():
            return None
        best = int(np.where(fits, new_load, np.inf).argmin())
        bins[best].append(piece)
        rows[best], longest[best], size[best] = new_rows[best], new_longest[best], new_size[best]
        targets[best], pairs[best], load[best] = new_targets[best], new_pairs[best], new_load[best]
    return Dealt(bins, load)


def _to_ranks(dealt: Dealt, world_size: int) -> list[list[list[TrainGroup]]]:
    """Micro-batches of like work go to the ranks in one round, the fuller to who had less."""
    order = np.argsort(-dealt.work, kind="stable")
    ranks: list[list[list[TrainGroup]]] = [[] for _ in range(world_size)]
    had = np.zeros(world_size)
    for start in range(0, len(order), world_size):
        by_work = order[start : start + world_size]
        for number, rank in zip(by_work, np.argsort(had, kind="stable"), strict=True):
            members = sorted(dealt.bins[number], key=lambda one: (one.place, one.group.first))
            ranks[rank].append([piece.group for piece in members])
            had[rank] += dealt.work[number]
    return ranks
