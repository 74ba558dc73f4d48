"""Requests and raw completions by number, so that a test sees whose they are."""

import numpy as np

from fastdistill_ray.generation.knobs import SEED_STRIDE
from fastdistill_ray.generation.outputs import RawCompletion
from fastdistill_ray.records import Problem


def made_up_problems(count: int) -> list[Problem]:
    return [
        Problem(f"p{i:05d}", "made_up", "train", f"What is {i}?", str(i), "number")
        for i in range(count)
    ]


def request(number: int, reference: str = "7") -> dict:
    return {
        "problem_id": f"p{number}",
        "kind": "number",
        "reference": reference,
        "tolerance": None,
        "scorer": "",
        "options": [],
        "messages": [{"role": "user", "content": "?"}],
        "prompt_token_ids": [1, 2, 3],
        "seed": number * SEED_STRIDE,
    }


def completion(text: str, num_tokens: int, seed: int, k: int = 0) -> RawCompletion:
    """Token t of it has id 10 * seed + t, and id and log-probability of rank r are told by both."""
    token_ids = 10 * seed + np.arange(num_tokens, dtype=np.int32)
    ids = 100 * token_ids[:, None] + np.arange(1 + k, dtype=np.int32)
    plain = RawCompletion(text, token_ids, "stop", num_tokens, seed)
    return plain._replace(logprob_ids=ids, logprobs=-ids.astype(np.float32) / 7) if k else plain
