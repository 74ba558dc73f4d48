"""Problems -> numbered requests: rendered for one model, seeded, assigned to a teacher."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import not_
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import SEED_STRIDE, TeacherKnobs
from fastdistill_ray.models import tokenizer_of
from fastdistill_ray.prompts import PromptKnobs, build_messages, render, written_by
from fastdistill_ray.records import PROBLEM_FIELDS, REQUEST_SCHEMA, Problem
from fastdistill_ray.tasks.problem_file import ProblemFile

ROWS_AT_ONCE = 1024  # rendered only to see whether one fits


class Requests(Protocol):
    """Numbered requests; actors read the rows of the numbers they are given."""

    def __len__(self) -> int: ...

    def take(self, numbers: np.ndarray) -> pa.Table: ...


@dataclass(frozen=True)
class ProblemRequests:
    """Requests for some problems of a file, rendered by the actor that asks them.

    A prompt that leaves no room for a whole completion is left out.
    """

    problems: ProblemFile
    rows: np.ndarray  # row number of each request's problem
    model: str  # whose tokenizer and chat template; "": whoever is asked renders the messages
    prompt: PromptKnobs
    seed: int
    max_prompt_tokens: int | None
    others: tuple[PromptKnobs, ...] = ()  # of which further completions are drawn

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, numbers: np.ndarray) -> pa.Table:
        problems = self.problems.take(self.rows[numbers])
        tokenizer = tokenizer_of(self.model) if self.model else None
        requests = build_requests(problems, self.prompt, tokenizer, self.seed, self.others)
        if self.max_prompt_tokens is not None:
            requests, _ = split_by_length(requests, self.max_prompt_tokens)
        return pa.Table.from_pylist(requests, schema=REQUEST_SCHEMA)


def request_seed(seed: int, key: str) -> int:
    """A multiple of SEED_STRIDE in [0, 2^62), equal in every process and run."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (1 << 52) * SEED_STRIDE


def build_requests(
    problems: Iterable[Problem],
    prompt: PromptKnobs,
    tokenizer: Any,
    seed: int,
    others: Sequence[PromptKnobs] = (),
) -> list[dict[str, Any]]:
    """Problems rendered for one model, as rows of REQUEST_SCHEMA.

    No tokenizer: whoever is asked renders the messages itself, and there are no token ids.
    """
    written = written_by(tokenizer, prompt)._asdict()
    if others:
        hashes = [written_by(tokenizer, one).template_hash for one in (prompt, *others)]
        written["template_hash"] = hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]

    def asked(problem: Problem, prompt: PromptKnobs) -> dict[str, Any]:
        messages = build_messages(problem.question, prompt, problem.options)
        ids = render(messages, tokenizer, prompt) if tokenizer else []
        return {"messages": messages, "prompt_token_ids": ids}

    rows = []
    for problem in problems:
        rows.append(
            {
                **{name: getattr(problem, name) for name, _ in PROBLEM_FIELDS},
                **asked(problem, prompt),
                "others": [asked(problem, other) for other in others],
                **written,
                "seed": request_seed(seed, problem.problem_id),
            }
        )
    assert len({row["seed"] for row in rows}) == len(rows), "two requests share a seed"
    return rows


def split_by_length(
    rows: list[dict[str, Any]], max_prompt_tokens: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows whose prompts all leave room for a whole completion, the others)."""

    def fits(row: dict[str, Any]) -> bool:
        prompts = [one["prompt_token_ids"] for one in (row, *row["others"])]
        return max(map(len, prompts)) <= max_prompt_tokens

    is_fit = [fits(row) for row in rows]
    return list(compress(rows, is_fit)), list(compress(rows, map(not_, is_fit)))


def has_one_that_fits(requests: Requests) -> bool:
    """Whether an engine would be asked any of them."""
    return any(
        requests.take(np.arange(first, min(first + ROWS_AT_ONCE, len(requests)))).num_rows
        for first in range(0, len(requests), ROWS_AT_ONCE)
    )


def assign(teachers: list[TeacherKnobs], problem_id: str, task: str) -> int:
    """Which teacher writes a problem's group: by task, then by share; the same in every run."""
    able = [i for i, knobs in enumerate(teachers) if not knobs.tasks or task in knobs.tasks]
    if not able:
        raise UserError(f"teacher.tasks: no teacher takes problems of task {task}")
    digest = hashlib.sha256(f"teacher/{problem_id}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64 * sum(teachers[i].share for i in able)
    for i in able:
        point -= teachers[i].share
        if point < 0:
            return i
    return able[-1]
