"""Requests: seeds that nobody shares, prompts that fit."""

import numpy as np
import pytest
from support.models import make_tiny_model
from support.requests import made_up_problems

from fastdistill_ray.generation.knobs import SEED_STRIDE, TeacherKnobs
from fastdistill_ray.generation.requests import (
    ProblemRequests,
    assign,
    build_requests,
    request_seed,
    split_by_length,
)
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.records import Problem
from fastdistill_ray.tasks import TaskKnobs, load_problems
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems


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


def test_assign_shares_problems_and_keeps_tasks_apart():
    one, two = TeacherKnobs(model="a", share=3.0), TeacherKnobs(model="b")
    taken = [assign([one, two], f"p{i}", "t") for i in range(4000)]
    assert taken == [assign([one, two], f"p{i}", "t") for i in range(4000)]
    assert 0.73 < taken.count(0) / 4000 < 0.77
    special = TeacherKnobs(model="c", tasks=["gsm8k"])
    assert {assign([special, two], f"p{i}", "other") for i in range(50)} == {1}
    assert {assign([special, two], f"p{i}", "gsm8k") for i in range(50)} == {0, 1}
    with pytest.raises(ValueError, match=r"teacher.tasks: no teacher takes problems of task other"):
        assign([special], "p", "other")


def test_problem_requests_are_rendered_by_number_without_those_that_are_too_long(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    problems = made_up_problems(6)
    problems[3] = Problem("long", "made_up", "train", "why " * 2000, "1", "number")
    write_problems(problems, tmp_path / "train.parquet")
    file = ProblemFile(tmp_path / "train.parquet")
    requests = ProblemRequests(file, np.array([1, 3, 4, 5]), model, PromptKnobs(), 7, 1000)
    assert len(requests) == 4
    taken = requests.take(np.array([0, 1, 3]))
    assert taken["problem_id"].to_pylist() == ["p00001", "p00005"]
    expected = build_requests([problems[1]], PromptKnobs(), load_tokenizer(model), 7)
    assert taken.slice(0, 1).to_pylist() == expected
    assert requests.take(np.array([1])).num_rows == 0
