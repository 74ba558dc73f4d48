"""Requests: seeds that nobody shares, prompts that fit, one column of completions."""

import pyarrow as pa
from models_for_tests import make_tiny_model

from fastdistill_ray.generation import (
    SEED_STRIDE,
    build_requests,
    request_seed,
    split_by_length,
)
from fastdistill_ray.generation.outputs import with_completions
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.records import REQUEST_SCHEMA
from fastdistill_ray.tasks import TaskKnobs, load_problems


def test_request_seeds_leave_room_for_every_completion_and_fit_64_bits():
    seeds = {request_seed(0, f"p{i}") for i in range(20_000)}
    assert len(seeds) == 20_000
    assert all(seed % SEED_STRIDE == 0 and 0 <= seed < 2**62 for seed in seeds)
    assert request_seed(0, "p1") != request_seed(1, "p1")
    assert request_seed(3, "gsm8k/train/00001") == 4449943938087297024


def test_requests_hold_the_rendered_prompt_and_long_ones_are_set_aside(tmp_path):
    tokenizer = load_tokenizer(make_tiny_model(str(tmp_path)))
    problems = load_problems(TaskKnobs(name="word_problems", num_train=20, num_test=1, num_ood=1))[
        "train"
    ]
    rows = build_requests(problems, PromptKnobs(), tokenizer, seed=1)
    assert [row["problem_id"] for row in rows] == [problem.problem_id for problem in problems]
    text = tokenizer.decode(rows[0]["prompt_token_ids"])
    assert problems[0].question in text
    assert text.endswith("<|im_start|>assistant\n")
    lengths = sorted(len(row["prompt_token_ids"]) for row in rows)
    fit, long = split_by_length(rows, lengths[9])
    assert len(fit) + len(long) == 20
    assert max(len(row["prompt_token_ids"]) for row in fit) <= lengths[9]
    assert all(len(row["prompt_token_ids"]) > lengths[9] for row in long)
    table = pa.Table.from_pylist(rows, schema=REQUEST_SCHEMA)
    answered = with_completions(table.slice(0, 1), [[{"text": "a", "num_tokens": 1}]])
    assert answered["completions"].to_pylist()[0][0]["text"] == "a"
