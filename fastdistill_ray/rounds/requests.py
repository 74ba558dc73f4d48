"""Which problems the student writes texts of in which round, and who it is by then."""

from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import pyarrow as pa

from fastdistill_ray.generation.requests import build_requests, split_by_length
from fastdistill_ray.generation.vllm_engine import RELOAD_COLUMN
from fastdistill_ray.models import tokenizer_of
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.records import REQUEST_SCHEMA, Problem
from fastdistill_ray.rounds.policies import Policies
from fastdistill_ray.tasks.problem_file import ProblemFile

ROUND = "round"  # column of a request: the rounds that its writer was trained for


@dataclass(frozen=True)
class RoundRequests:
    """In the order in which they are asked; the newest student is asked each."""

    problems: ProblemFile
    rows: np.ndarray  # row number of each request's problem
    passes: np.ndarray  # how often that problem was asked before
    policies: Policies
    prompt: PromptKnobs
    seed: int
    num_too_long: int  # problems that are never asked: their prompts leave no room

    def __len__(self) -> int:
        return len(self.rows)

    def ids(self) -> list[str]:
        return [one.problem_id for one in self._problems(np.arange(len(self)))]

    def without(self, known: set[str]) -> "RoundRequests":
        left = np.array([key not in known for key in self.ids()], bool)
        return replace(self, rows=self.rows[left], passes=self.passes[left])

    def take(self, numbers: np.ndarray) -> pa.Table:
        version, weights = self.policies.newest()
        tokenizer = tokenizer_of(self.policies.model)
        requests = build_requests(self._problems(numbers), self.prompt, tokenizer, self.seed)
        table = pa.Table.from_pylist(requests, schema=REQUEST_SCHEMA)
        table = table.append_column(RELOAD_COLUMN, pa.array([weights] * len(requests), pa.string()))
        return table.append_column(ROUND, pa.array([version] * len(requests), pa.int32()))

    def _problems(self, numbers: np.ndarray) -> list[Problem]:
        """With an id for each time that a problem is asked: texts of each have their own seeds, and
        are told from a teacher's."""
        found = self.problems.take(self.rows[numbers])
        return [
            replace(one, problem_id=f"{one.problem_id}@{number + 1}")
            for one, number in zip(found, self.passes[numbers], strict=True)
        ]


def draw_requests(
    problems: ProblemFile,
    total: int,
    policies: Policies,
    prompt: PromptKnobs,
    seed: int,
    max_prompt_tokens: int,
) -> RoundRequests:
    """`total` problems, each pass over them in an order of its own; without those whose prompt
    leaves no room for a completion."""
    tokenizer = tokenizer_of(policies.model)
    requests = build_requests(problems, prompt, tokenizer, seed)
    long = {row["problem_id"] for row in split_by_length(requests, max_prompt_tokens)[1]}
    fit = np.array([i for i, row in enumerate(requests) if row["problem_id"] not in long], np.int64)
    rows, passes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for number in count():
        left = total - sum(map(len, rows))
        if left <= 0 or not len(fit):
            break
        order = np.random.default_rng([seed, number]).permutation(fit)[:left]
        rows.append(order)
        passes.append(np.full(len(order), number))
    return RoundRequests(
        problems, np.concatenate(rows), np.concatenate(passes), policies, prompt, seed, len(long)
    )
