"""Requests: seeds that nobody shares, prompts that fit."""

import numpy as np
import pytest
from support.models import make_tiny_model
from support.requests import made_up_problems

from fastdistill_ray.generation.knobs import (
    SEED_STRIDE,
    SamplingKnobs,
    TeacherKnobs,
    teacher_errors,
)
from fastdistill_ray.generation.requests import (
    ProblemRequests,
    assign,
    build_requests,
    request_seed,
    split_by_length,
)
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import PromptKnobs, Shot
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


def test_prompts_of_a_teacher_are_its_own_and_other_orders_of_each_ones_examples():
    shots = [Shot(question=f"q{i}", answer=f"a{i}") for i in range(3)]
    own, other = PromptKnobs(shots=shots), PromptKnobs(system="Other.", shots=shots[:2])
    teacher = TeacherKnobs(model="a", prompt=own, prompts=[other], shot_orders=2)
    found = teacher.all_prompts
    assert [one.system for one in found] == [own.system] * 2 + ["Other."] * 2
    assert found[0] == own and found[2] == other
    for one in found:
        same = own if one.system == own.system else other
        assert sorted(one.shots, key=str) == sorted(same.shots, key=str)
    assert len({one.model_dump_json() for one in found}) == 4
    assert found == teacher.all_prompts, "the same in every process"


def test_request_holds_every_prompt_and_is_as_long_as_its_longest(tmp_path):
    tokenizer = load_tokenizer(make_tiny_model(str(tmp_path)))
    problem = Problem("a", "t", "train", "What is 3 + 4?", "7", "number")
    others = [PromptKnobs(system="Be brief."), PromptKnobs(system="Long. " * 50)]
    (row,) = build_requests([problem], PromptKnobs(), tokenizer, 1, others)
    (plain,) = build_requests([problem], PromptKnobs(), tokenizer, 1)
    same = {name: value for name, value in row.items() if name not in ("others", "template_hash")}
    assert same == {name: plain[name] for name in same}
    assert row["template_hash"] != plain["template_hash"]
    texts = [tokenizer.decode(one["prompt_token_ids"]) for one in row["others"]]
    assert "Be brief." in texts[0] and texts[1].count("Long.") == 50
    longest = len(row["others"][1]["prompt_token_ids"])
    assert split_by_length([row], longest)[0] == [row]
    assert split_by_length([row], longest - 1) == ([], [row])


@pytest.mark.parametrize(
    ("knobs", "sampling", "said"),
    [
        ({"shot_orders": 2}, {}, "shot_orders: 0 worked examples of teacher.prompt have fewer"),
        ({"prompts": [{}] * 8}, {}, "sampling.n: 8 completions cannot be of 9 prompts"),
        ({"prompts": [{}]}, {"logprobs": 1}, "sampling.logprobs: those of several prompts"),
        ({"prompts": [{"template": "plain"}]}, {}, "teacher.prompts.0.template: a problem's"),
    ],
)
def test_what_several_prompts_cannot_do_is_said_with_its_field(knobs, sampling, said):
    teacher = TeacherKnobs(model="a", **knobs)
    (error,) = teacher_errors("teacher", teacher, SamplingKnobs(**sampling))
    assert said in error
