"""Groups -> micro-batches of arrays. Pure numpy; knows no model and no device.

Packed: [prompt | completion 1 | ... | completion n] per group, several groups in one row; each
completion's positions continue at its prompt's length. Plain: one padded row per completion.
The first token of every completion is predicted from the last prompt token, which the group
shares; so targets are pairs (source position, label).
Legend: R rows of L tokens, K target tokens, C completions.
"""

from typing import Any, NamedTuple

import numpy as np

from fastdistill_ray.groups.signals import Signals, joined
from fastdistill_ray.objectives.contract import LossBatch
from fastdistill_ray.training.alignment import Reading, Spans, spans_of

Array = Any  # numpy here, a torch.Tensor once the batch is on its device
PROMPT = -1  # in place of a completion's number
PADDING = -1  # in place of a group's number


class TrainCompletion(NamedTuple):
    token_ids: np.ndarray
    weight: float
    penalty: float
    signals: Signals | None = None  # of its tokens
    reading: Reading | None = None  # by the frozen model's own tokenizer


class TrainGroup(NamedTuple):
    """A group, or a part of one that is larger than a micro-batch."""

    group_id: str
    prompt_ids: np.ndarray
    completions: list[TrainCompletion]
    first: int = 0  # place of its first completion in the group
    frozen_prompt_ids: np.ndarray | None = None  # where it is not prompt_ids
    is_explained: bool = False  # whether its texts are thoughts, trained apart from what follows


class Segment(NamedTuple):
    """A prompt (then prompt_start == prompt_end) or a completion of a packed row."""

    start: int
    end: int
    prompt_start: int
    prompt_end: int


class Inputs(NamedTuple):
    """What the student computes log-probabilities from."""

    input_ids: Array  # [R, L] int64
    position_ids: Array  # [R, L] int64
    group: Array  # [R, L] int32
    completion: Array  # [R, L] int32, PROMPT on prompt tokens
    sources: Array  # [K] int64, flat position whose hidden state predicts the label
    labels: Array  # [K] int64
    is_packed: bool
    segments: list[Segment]  # of a packed row, without its padding


class MicroBatch(NamedTuple):
    inputs: Inputs
    loss: LossBatch
    parts: list["Part"]  # in the order of the completions
    # groups, explained (groups of thoughts), completions, tokens (trained), spans, unique_tokens
    # (prompts once), row_tokens (prompts with every completion), computed_tokens (padding too),
    # frozen_tokens (unique ones that a frozen model would read)
    counts: dict[str, int]
    frozen: Inputs | None = None  # the same targets after a frozen model's own prompts
    signals: Signals | None = None  # of the targets
    spans: Spans | None = None  # where the frozen model has targets of its own


class Part(NamedTuple):
    """Which completions of a group."""

    group_id: str
    first: int
    size: int


def batch_of(
    groups: list[TrainGroup],
    *,
    shared_prompt: bool,
    mask_prompt: bool,
    multiple_of: int = 1,
    no_signals: Signals | None = None,
) -> MicroBatch:
    """Packed rows are padded to a multiple of `multiple_of` tokens. `no_signals`: those of a token
    that counts nothing, where the objective takes any."""
    if not groups:
        return empty_batch(shared_prompt, multiple_of, no_signals)
    if shared_prompt:
        batch = packed_batch(groups, multiple_of)
    else:
        batch = plain_batch(groups, mask_prompt)
    if all(group.frozen_prompt_ids is None for group in groups):
        return batch
    others = list(map(_as_frozen_reads, groups))
    frozen = packed_batch(others, multiple_of) if shared_prompt else plain_batch(others, True)
    counts = batch.counts | {"frozen_tokens": frozen.counts["unique_tokens"]}
    return batch._replace(frozen=frozen.inputs, counts=counts)


def _as_frozen_reads(group: TrainGroup) -> TrainGroup:
    completions = [
        one._replace(token_ids=one.reading.token_ids) if one.reading else one
        for one in group.completions
    ]
    return group._replace(prompt_ids=group.frozen_prompt_ids, completions=completions)


def empty_batch(
    shared_prompt: bool, multiple_of: int = 1, no_signals: Signals | None = None
) -> MicroBatch:
    """A micro-batch of zero weight that counts nothing, for a rank that has run out of groups."""
    token = np.zeros(1, dtype=np.int64)
    group = TrainGroup("", token, [TrainCompletion(token, 0.0, 0.0, no_signals)])
    batch = packed_batch([group], multiple_of) if shared_prompt else plain_batch([group], True)
    return batch._replace(counts=dict.fromkeys(batch.counts, 0))


def num_packed_tokens(groups: list[TrainGroup]) -> int:
    return sum(
        len(group.prompt_ids) + sum(len(completion.token_ids) for completion in group.completions)
        for group in groups
    )


def row_lengths(groups: list[TrainGroup]) -> list[int]:
    """Tokens of a row per completion, each with its prompt."""
    return [
        len(group.prompt_ids) + len(completion.token_ids)
        for group in groups
        for completion in group.completions
    ]


def num_padded_tokens(groups: list[TrainGroup]) -> int:
    lengths = row_lengths(groups)
    return len(lengths) * max(lengths)


def packed_batch(groups: list[TrainGroup], multiple_of: int) -> MicroBatch:
    """One row, R = 1, with every prompt once."""
    num_tokens = num_packed_tokens(groups)
    length = -(-num_tokens // multiple_of) * multiple_of
    input_ids_RL, position_ids_RL = np.zeros((2, 1, length), dtype=np.int64)
    group_RL = np.full((1, length), PADDING, dtype=np.int32)
    completion_RL = np.full((1, length), PROMPT, dtype=np.int32)
    sources, segments, start, number = [], [], 0, 0
    for index, group in enumerate(groups):
        prompt_length = len(group.prompt_ids)
        prompt_end = start + prompt_length
        input_ids_RL[0, start:prompt_end] = group.prompt_ids
        position_ids_RL[0, start:prompt_end] = np.arange(prompt_length)
        segments.append(Segment(start, prompt_end, start, start))
        end = prompt_end
        for completion in group.completions:
            begin, end = end, end + len(completion.token_ids)
            input_ids_RL[0, begin:end] = completion.token_ids
            position_ids_RL[0, begin:end] = prompt_length + np.arange(end - begin)
            completion_RL[0, begin:end] = number
            sources.append(np.r_[prompt_end - 1, begin : end - 1])
            segments.append(Segment(begin, end, start, prompt_end))
            number += 1
        group_RL[0, start:end] = index
        start = end
    labels = [completion.token_ids for group in groups for completion in group.completions]
    tokens = (input_ids_RL, position_ids_RL, group_RL, completion_RL)
    return _micro_batch(groups, tokens, sources, labels, num_tokens, segments)


def plain_batch(groups: list[TrainGroup], mask_prompt: bool) -> MicroBatch:
    """One row per completion, padded on the right; prompt tokens are targets if not masked."""
    rows = [
        (group.prompt_ids, completion.token_ids)
        for group in groups
        for completion in group.completions
    ]
    shape = (len(rows), max(row_lengths(groups)))
    input_ids_RL = np.zeros(shape, dtype=np.int64)
    position_ids_RL = np.tile(np.arange(shape[1]), (shape[0], 1))
    group_RL = np.full(shape, PADDING, dtype=np.int32)
    completion_RL = np.full(shape, PROMPT, dtype=np.int32)
    sources, labels, num_tokens = [], [], 0
    for index, (prompt, ids) in enumerate(rows):
        both = np.concatenate([prompt, ids])
        first = len(prompt) if mask_prompt else 1
        input_ids_RL[index, : len(both)] = both
        group_RL[index, : len(both)] = index
        sources.append(index * shape[1] + np.arange(first - 1, len(both) - 1))
        labels.append(both[first:])
        num_tokens += len(both)
    tokens = (input_ids_RL, position_ids_RL, group_RL, completion_RL)
    batch = _micro_batch(groups, tokens, sources, labels, num_tokens, [])
    if mask_prompt:
        return batch
    own = [np.arange(1, len(prompt) + len(ids)) >= len(prompt) for prompt, ids in rows]
    return batch._replace(loss=batch.loss._replace(is_own=np.concatenate(own).astype(np.float32)))


def _micro_batch(
    groups: list[TrainGroup],
    tokens_RL: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    sources: list[np.ndarray],
    labels: list[np.ndarray],
    num_tokens: int,
    segments: list[Segment],
) -> MicroBatch:
    """`sources` and `labels` are of each completion; together they have K entries."""
    completions = [completion for group in groups for completion in group.completions]
    lengths_C = np.array([len(ids) for ids in labels])
    loss = LossBatch(
        completion=np.repeat(np.arange(len(completions)), lengths_C),
        lengths=lengths_C.astype(np.float32),
        weight=np.array([completion.weight for completion in completions], dtype=np.float32),
        penalty=np.array([completion.penalty for completion in completions], dtype=np.float32),
        group=np.repeat(np.arange(len(groups)), [len(group.completions) for group in groups]),
    )
    spans, num_spans_C = None, None
    if readings := [one.reading for one in completions if one.reading]:
        spans, num_spans_C = spans_of(readings, lengths_C.tolist())
        loss = loss._replace(spans=num_spans_C.astype(np.float32))
    counts = {
        "groups": sum(group.first == 0 and not group.is_explained for group in groups),
        "explained": sum(group.first == 0 and group.is_explained for group in groups),
        "completions": len(completions),
        "tokens": int(lengths_C.sum()),
        "spans": 0 if num_spans_C is None else int(num_spans_C.sum()),
        "unique_tokens": num_tokens,
        "row_tokens": sum(row_lengths(groups)),
        "computed_tokens": tokens_RL[0].size,
        "frozen_tokens": num_tokens,
    }
    sources_K, labels_K = np.concatenate(sources), np.concatenate(labels)
    inputs = Inputs(*tokens_RL, sources_K, labels_K, bool(segments), segments)
    parts = [Part(group.group_id, group.first, len(group.completions)) for group in groups]
    stored = [one.signals for one in completions if one.signals is not None]
    signals = joined(stored) if stored else None
    return MicroBatch(inputs, loss, parts, counts, signals=signals, spans=spans)
