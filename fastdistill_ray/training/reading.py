"""Rows of a store -> groups of token ids as the student reads them. Pure numpy; knows no model."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.signals import Signals
from fastdistill_ray.objectives import Objective
from fastdistill_ray.objectives.contract import Scored, Target
from fastdistill_ray.prompts import parts_of
from fastdistill_ray.rewards.advantages import AdvantageKnobs, group_advantages
from fastdistill_ray.training.alignment import Aligner, Reading
from fastdistill_ray.training.packing import TrainCompletion, TrainGroup


class StudentText(NamedTuple):
    """How the student reads a group row."""

    encode_prompt: Callable[[dict[str, Any]], list[int]]
    encode_text: Callable[[str], list[int]]  # without special tokens
    has_ids_of: Callable[[str], bool]  # whether a teacher's token ids mean the same to the student
    eos_id: int  # the target after a completion that stopped by itself
    eos_ids: frozenset[int]  # ids that already end a completion
    # The prompt of a frozen model that has one of its own.
    encode_frozen_prompt: Callable[[dict[str, Any]], list[int]] | None = None
    # The prompt that a completion's thoughts follow where they are trained apart.
    encode_explained_prompt: Callable[[dict[str, Any]], list[int]] | None = None
    template: str = ""  # the chat template, where it is not the model's own
    # How the tokenizer of a frozen model reads a completion of a row whose ids are these; None
    # where both cannot be aligned, which the aligner counts.
    read_otherwise: Callable[[dict[str, Any], dict[str, Any], list[int]], Reading | None] | None = (
        None
    )
    aligner: Aligner | None = None


class ReadGroup(NamedTuple):
    """The completions of a group that can be trained on, as the student reads them."""

    group_id: str
    prompt_ids: list[int]
    token_ids: list[list[int]]  # of each completion
    scored: list[Scored]  # the same completions
    frozen_prompt_ids: list[int] | None  # of a frozen model that has one of its own
    signals: list[Signals] | None = None  # of each completion
    readings: Sequence[Reading] = ()  # of each completion, by a frozen model's own tokenizer


def read_group(
    row: dict[str, Any],
    text: StudentText,
    *,
    min_completions: int,
    advantage: AdvantageKnobs,
    max_seq_len: int,
) -> ReadGroup | None:
    """A GROUP_SCHEMA row -> its selected completions that fit; None where too few are left.

    Completions that do not fit `max_seq_len`, or that cannot be aligned, leave, and advantages are
    those of the rest (methods A20, A28); a group that so loses its last correct one leaves too.
    Where the row has `signals`, a GroupSignals, those of the completions come along; UserError
    where they are of other tokens.
    """
    prompt = text.encode_prompt(row)
    if not prompt:
        raise UserError(f"problem {row['problem_id']}: the student's prompt has no tokens")
    encoded = selected_ids(row, text)
    kept = [one for one in encoded if one.ids and len(prompt) + len(one.ids) <= max_seq_len]
    readings: list[Reading] = []
    if read := text.read_otherwise:
        both = [(one, read(row, one.given, one.ids)) for one in kept]
        kept = [one for one, reading in both if reading]
        readings = [reading for _, reading in both if reading]
    is_correct = [one.given["verdict"] == "correct" for one in kept]
    had_correct = any(one.given["verdict"] == "correct" for one in encoded)
    if len(kept) < min_completions or (had_correct and not any(is_correct)):
        return None
    rewards = np.array([one.given["reward"] for one in kept])
    scored = [
        Scored(
            correct,
            one.given["reward"],
            float(value),
            one.given["num_tokens"],
            row["round"] is not None,
        )
        for correct, one, value in zip(
            is_correct, kept, group_advantages(rewards, advantage), strict=True
        )
    ]
    frozen = text.encode_frozen_prompt(row) if text.encode_frozen_prompt else None
    stored = row.get("signals")
    signals = [stored.of(one.place, one.ids) for one in kept] if stored else None
    ids = [one.ids for one in kept]
    return ReadGroup(row["problem_id"], prompt, ids, scored, frozen, signals, readings)


def train_group(group: ReadGroup, targets: list[Target]) -> TrainGroup:
    completions = [
        TrainCompletion(
            np.array(group.token_ids[target.index]),
            target.weight,
            target.penalty,
            group.signals[target.index] if group.signals else None,
            group.readings[target.index] if group.readings else None,
        )
        for target in targets
    ]
    frozen = None if group.frozen_prompt_ids is None else np.array(group.frozen_prompt_ids)
    prompt = np.array(group.prompt_ids)
    return TrainGroup(group.group_id, prompt, completions, frozen_prompt_ids=frozen)


def prepare_group(
    row: dict[str, Any],
    text: StudentText,
    objective: Objective,
    *,
    advantage: AdvantageKnobs,
    max_seq_len: int,
) -> list[TrainGroup]:
    """What the objective trains of a GROUP_SCHEMA row; of two views a group each."""
    rows = [(row, text)]
    if views := objective.needs.views:
        rows = [(with_parts(row, 1), text)]
        if views.system:
            assert text.encode_explained_prompt
            explained = text._replace(encode_prompt=text.encode_explained_prompt)
            rows.append((with_parts(row, 0), explained))
    groups = []
    for place, (one, read_by) in enumerate(rows):
        group = read_group(
            one,
            read_by,
            min_completions=objective.min_completions,
            advantage=advantage,
            max_seq_len=max_seq_len,
        )
        if not group or not (targets := objective.targets(group.scored)):
            continue
        if views:  # each has the one coefficient that is its own
            kept = {"penalty": 0.0} if place == 0 else {"weight": 0.0}
            targets = [target._replace(**kept) for target in targets]
        groups.append(train_group(group, targets)._replace(is_explained=place == 1))
    return groups


def with_parts(row: dict[str, Any], part: int) -> dict[str, Any]:
    """A row of the completions that have both parts of a text, thoughts and what follows, each with
    one of them alone."""
    both = [(one, parts_of(one["text"])) for one in row["completions"]]
    completions = [
        {**one, "text": parts[part], "token_ids": []} for one, parts in both if all(parts)
    ]
    return {**row, "completions": completions, "signals": None}


class Selected(NamedTuple):
    """A selected completion of a group row: its place there, and the ids of its targets."""

    place: int
    given: dict[str, Any]
    ids: list[int]


def selected_ids(row: dict[str, Any], text: StudentText) -> list[Selected]:
    return [
        Selected(place, given, completion_ids(given, row["teacher"], text))
        for place, given in enumerate(row["completions"])
        if given["is_selected"]
    ]


def completion_ids(completion: dict[str, Any], teacher: str, text: StudentText) -> list[int]:
    """The student's target ids; EOS is one only where the completion stopped by itself.

    A completion without ids, as of an endpoint, is read from its text.
    """
    if len(completion["token_ids"]) and text.has_ids_of(teacher):
        ids = list(completion["token_ids"])
    else:
        ids = text.encode_text(completion["text"])
    if completion["finish_reason"] == "stop" and not (ids and ids[-1] in text.eos_ids):
        ids.append(text.eos_id)
    return ids
