"""Committed groups -> numbered requests: the scorer's prompt and the token ids that are trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from fastdistill_ray.generation.requests import request_seed
from fastdistill_ray.groups.steps import RowReader
from fastdistill_ray.groups.store import Location, Store
from fastdistill_ray.models import fetch_without_weights, load_tokenizer
from fastdistill_ray.prompts import Prompted, PromptKnobs
from fastdistill_ray.training.reading import Selected, StudentText, selected_ids
from fastdistill_ray.training.texts import student_text
from fastdistill_ray.training.trust import written_logprobs

NUM_CHECKED = 64  # groups whose log-probabilities are read: the first of every actor is among them
SCORE_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),  # the scorer's
        ("places", pa.list_(pa.int16())),  # of the completions in the group
        ("token_ids", pa.list_(pa.list_(pa.int32()))),  # of each of them
        # Log-probabilities of their first tokens when the scorer wrote them; empty: not known.
        ("written", pa.list_(pa.list_(pa.float32()))),
        ("seed", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Texts:
    """Whose ids of the texts are asked about, and by which prompt the scorer comes to them."""

    student: Prompted
    teacher_prompts: Mapping[str, PromptKnobs]  # by model, of those who wrote
    scorer: Prompted
    max_seq_len: int  # of the student's prompt and a completion; longer ones are not trained
    seed: int  # of random draws
    # Whether the scorer wrote texts itself, by the same prompt, and their log-probabilities are
    # stored.
    is_writer: bool = False

    def reader(self) -> StudentText:
        tokenizer = load_tokenizer(folder := fetch_without_weights(self.student.model))
        return student_text(
            folder, tokenizer, self.student.prompt, self.teacher_prompts, self.scorer
        )


@dataclass(frozen=True)
class TextRequests:
    """Some kept groups of a store, read by the actor that asks about them."""

    groups: str  # the store's folder
    index: pa.Table  # where their rows are, as `groups.steps.read_index` has it
    texts: Texts

    def __len__(self) -> int:
        return self.index.num_rows

    def __reduce__(self) -> tuple[Any, ...]:
        """Without what it has opened to read them."""
        return TextRequests, (self.groups, self.index, self.texts)

    def take(self, numbers: np.ndarray) -> pa.Table:
        """Groups of which no completion can be trained are left out."""
        rows = zip(numbers, self.index.take(numbers).to_pylist(), strict=True)
        found = [self.request(Location(**row), int(number)) for number, row in rows]
        return pa.Table.from_pylist([row for row in found if row["places"]], schema=SCORE_SCHEMA)

    def request(self, location: Location, number: int) -> dict[str, Any]:
        text, row = self._text, self._rows.read(location)
        room = self.texts.max_seq_len - len(text.encode_prompt(row))
        fit = [one for one in selected_ids(row, text) if 0 < len(one.ids) <= room]
        assert text.encode_frozen_prompt
        return {
            "problem_id": row["problem_id"],
            "prompt_token_ids": text.encode_frozen_prompt(row),
            "places": [one.place for one in fit],
            "token_ids": [one.ids for one in fit],
            "written": self._written(location, row, fit, number),
            "seed": request_seed(self.texts.seed, row["problem_id"]),
        }

    def _written(
        self, location: Location, row: dict[str, Any], fit: list[Selected], number: int
    ) -> list[list[float]]:
        """Of the first groups, by which an actor finds out whether its model can be trusted."""
        texts = self.texts
        if not texts.is_writer or row["teacher"] != texts.scorer.model or number >= NUM_CHECKED:
            return [[] for _ in fit]
        return written_logprobs(RowReader(Store(self.groups), ()).table(location), fit)

    @cached_property
    def _text(self) -> StudentText:
        return self.texts.reader()

    @cached_property
    def _rows(self) -> RowReader:
        return RowReader(Store(self.groups))
