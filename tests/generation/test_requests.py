"""Requests: seeds that nobody shares, prompts that fit, one column of completions."""

import asyncio
import json
import pickle
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.models import make_tiny_model

from fastdistill_ray.evaluation.answers import AnswerWriter, Model, missing_requests
from fastdistill_ray.evaluation.knobs import EvaluationKnobs
from fastdistill_ray.generation.completions import bundle, unbundle
from fastdistill_ray.generation.draws import Draw, Part, answer, draws
from fastdistill_ray.generation.knobs import SEED_STRIDE, SamplingKnobs, TeacherKnobs
from fastdistill_ray.generation.outputs import (
    NO_IDS,
    Answer,
    RawCompletion,
    completion_logprobs,
    with_completions,
)
from fastdistill_ray.generation.requests import (
    ProblemRequests,
    assign,
    build_requests,
    has_one_that_fits,
    request_seed,
    split_by_length,
)
from fastdistill_ray.generation.vllm_engine import RELOAD_COLUMN
from fastdistill_ray.groups.curation import GroupWriter, log_commits
from fastdistill_ray.groups.store import Commit, Store
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.records import REQUEST_SCHEMA, Problem
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import REFUSED, Judging, SelectionKnobs
from fastdistill_ray.tasks import TaskKnobs, load_problems
from fastdistill_ray.tasks.problem_file import (
    ROWS_PER_ROW_GROUP,
    ProblemFile,
    digests,
    write_problems,
)
from fastdistill_ray.verifiers import Judge, VerifierKnobs


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


def request(number: int, reference: str = "7") -> dict:
    return {
        "problem_id": f"p{number}",
        "kind": "number",
        "reference": reference,
        "tolerance": None,
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


def test_group_writer_cuts_bundles_of_any_size_into_files(tmp_path):
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs(), tau=0.5)
    batch = pa.Table.from_pylist([request(i) for i in range(6)], schema=REQUEST_SCHEMA)
    answers = [Answer([completion(f"\\boxed{{{i}}}", 1 + i, i)], 5) for i in range(6)]
    rows = with_completions(batch, answers, "someone")
    bundles = [bundle(rows.slice(first, size)) for first, size in ((0, 3), (3, 0), (3, 3))]
    assert [one.num_rows for one in bundles] == [1, 1, 1]
    assert unbundle(pa.concat_tables(bundles)).equals(rows.combine_chunks())
    lines = GroupWriter(str(tmp_path), judging, "{}", 4)(pa.concat_tables(bundles)).to_pylist()
    files = [json.loads(line["commit"])["file"] for line in lines]
    written = [pq.read_table(tmp_path / file).to_pylist() for file in files]
    assert [[row["problem_id"] for row in table] for table in written] == [
        ["p0", "p1", "p2", "p3"],
        ["p4", "p5"],
    ]
    assert [row["completions"][0]["token_ids"] for table in written for row in table] == [
        list(range(10 * i, 11 * i + 1)) for i in range(6)
    ]


def test_bundle_of_a_task_whose_prompts_are_all_too_long_commits_nothing(tmp_path):
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs(), tau=0.5)
    nothing = with_completions(pa.Table.from_pylist([], schema=REQUEST_SCHEMA), [], "someone")
    lines = GroupWriter(str(tmp_path), judging, "{}", 4)(bundle(nothing))
    assert (lines.num_rows, list(tmp_path.glob("part-*"))) == (0, [])
    lines = AnswerWriter(str(tmp_path), VerifierKnobs())(bundle(nothing))
    assert (lines.num_rows, list(tmp_path.glob("part-*"))) == (0, [])


def test_group_writer_stores_every_array_beside_its_completion(tmp_path):
    """Groups of several sizes; a refused one, one not answered; with and without signals."""
    judging = Judging(
        RewardKnobs(), AdvantageKnobs(), SelectionKnobs(dedup=True, min_size=1), tau=0.5
    )
    right, wrong = "\\boxed{7}", "\\boxed{8}"
    answers = [
        Answer(
            [completion(wrong, 3, 0, 2), completion(right, 0, 1, 2), completion(right, 2, 2, 2)], 5
        ),
        Answer([], 0),
        Answer([], 0, failure="the server is gone"),
        Answer(
            [completion(right, 4, 3), completion(right, 1, 4)._replace(token_ids=NO_IDS)], 6, 0.25
        ),
    ]
    batch = pa.Table.from_pylist([request(i) for i in range(4)], schema=REQUEST_SCHEMA)
    writer = GroupWriter(str(tmp_path), judging, "{}", 4)
    lines = writer(bundle(with_completions(batch, answers, "someone"))).to_pylist()
    assert [line["failure"] for line in lines] == ["", "the server is gone"]
    (file,) = tmp_path.glob("part-*.parquet")
    mixed, refused, plain = pq.read_table(file).to_pylist()
    assert [row["problem_id"] for row in (mixed, refused, plain)] == ["p0", "p1", "p3"]
    assert (refused["dropped"], refused["completions"]) == (REFUSED, [])
    assert [one["token_ids"] for one in mixed["completions"]] == [[0, 1, 2], [], [20, 21]]
    assert [one["verdict"] for one in mixed["completions"]] == ["wrong", "correct", "correct"]
    selected = [one["is_selected"] for one in mixed["completions"]]
    assert selected == [True, True, False], "a repeated text leaves its group"
    assert [one["token_ids"] for one in plain["completions"]] == [[30, 31, 32, 33], []]
    assert (plain["logprobs"], plain["logprob_ids"], plain["cost"]) == (None, None, 0.25)
    assert (mixed["teacher"], mixed["prompt_num_tokens"]) == ("someone", 5)
    parts = completion_logprobs(
        np.array(mixed["logprob_ids"]),
        np.array(mixed["logprobs"], dtype=np.float32),
        [one["num_tokens"] for one in mixed["completions"]],
    )
    for (ids, logprobs), given in zip(parts, answers[0].completions, strict=True):
        np.testing.assert_array_equal(ids, given.logprob_ids)
        np.testing.assert_array_equal(logprobs, given.logprobs)


def test_draws_cover_each_completion_once_with_its_own_temperature():
    sampling = SamplingKnobs(n=3, max_n=8, temperatures=[0.2, 0.2, 0.9, 0.2])
    asked, done = [], 0
    while done < 8:
        asked += draws(sampling, done)
        done = sum(draw.count for draw in asked)
    by_number = {draw.first + i: draw.temperature for draw in asked for i in range(draw.count)}
    assert list(by_number) == list(range(8))
    assert list(by_number.values()) == [0.2, 0.2, 0.9, 0.2] * 2
    assert draws(SamplingKnobs(n=8), 0) == [Draw(0, 8, 0.9)], "one prompt, eight completions"


@pytest.mark.parametrize(
    ("right", "enough", "rounds"),
    [([0], 1, 1), ([2], 1, 2), ([0, 5], 2, 3), ([], 1, 4), ([0, 1, 2, 3], 3, 2)],
)
def test_answer_draws_rounds_until_enough_are_correct(right, enough, rounds):
    sampling = SamplingKnobs(n=2, max_n=7, enough=enough)
    firsts = []

    async def ask(row: dict, draw: Draw) -> Part:
        firsts.append(draw.first)
        numbers = range(draw.first, draw.first + draw.count)
        texts = ["\\boxed{7}" if number in right else "\\boxed{8}" for number in numbers]
        return Part(
            [completion(text, 1, number) for text, number in zip(texts, numbers, strict=True)],
            3,
            0.5,
        )

    with Judge(VerifierKnobs()) as judge:
        found = asyncio.run(answer(request(0), sampling, ask, judge))
    assert firsts == [0, 2, 4, 6][:rounds]
    assert [one.seed for one in found.completions] == list(range(min(2 * rounds, 7)))
    assert (found.prompt_num_tokens, found.cost) == (3, 0.5 * rounds)


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


def made_up_problems(count: int) -> list[Problem]:
    return [
        Problem(f"p{i:05d}", "made_up", "train", f"What is {i}?", str(i), "number")
        for i in range(count)
    ]


def test_problem_file_counts_iterates_and_takes_rows_across_row_groups(tmp_path):
    problems = made_up_problems(2 * ROWS_PER_ROW_GROUP + 5)
    write_problems(problems, tmp_path / "train.parquet")
    file = pickle.loads(pickle.dumps(ProblemFile(tmp_path / "train.parquet")))
    assert len(file) == len(problems)
    assert list(file) == problems
    rows = [0, ROWS_PER_ROW_GROUP, ROWS_PER_ROW_GROUP - 1, 2 * ROWS_PER_ROW_GROUP + 4, 3]
    assert file.take(np.array(rows)) == [problems[row] for row in rows]
    write_problems([], tmp_path / "none.parquet")
    assert list(ProblemFile(tmp_path / "none.parquet")) == []


def test_missing_rows_are_those_no_commit_names(tmp_path):
    problems = made_up_problems(ROWS_PER_ROW_GROUP + 50)
    write_problems(problems, tmp_path / "train.parquet")
    file, store = ProblemFile(tmp_path / "train.parquet"), Store(tmp_path)
    assert file.rows_without(digests(store.keys())).tolist() == list(range(len(problems)))
    done = set(range(0, len(problems), 3))
    keys = [problems[i].problem_id for i in done]
    store.append(Commit("part-1.parquet", keys, [""] * len(keys), 1, 1, 0.0))
    assert file.rows_without(digests(store.keys())).tolist() == [
        i for i in range(len(problems)) if i not in done
    ]


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


def test_evaluation_asks_each_model_what_it_has_not_answered_in_its_own_prompt(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    problems = made_up_problems(5)
    problems[4] = Problem("long", "made_up", "ood", "why " * 2000, "1", "number")
    write_problems(problems[:3], tmp_path / "test.parquet")
    write_problems(problems[3:], tmp_path / "ood.parquet")
    files = [ProblemFile(tmp_path / name) for name in ("test.parquet", "ood.parquet")]
    plain, asked = PromptKnobs(system=""), PromptKnobs(system="Answer.")
    models = [Model("student", model, asked), Model("base_plain", model, plain)]
    store = Store(tmp_path, key="request_id")
    store.append(Commit("part-1.parquet", ["student/p00001"], [""], 1, 1, 0.0))
    engine = {"max_model_len": 1024}
    knobs = EvaluationKnobs(max_new_tokens=32, engine=engine, seed=3)
    missing = missing_requests(models, files, store, knobs)
    assert len(missing) == 9
    taken = [missing.take(np.arange(*span)).to_pylist() for span in ((0, 4), (4, 9))]
    rows = [row for rows in taken for row in rows]
    expected = [
        {**row, "request_id": f"{one.name}/{row['problem_id']}", "model": one.name}
        for one in models
        for row in build_requests(problems[:4], one.prompt, load_tokenizer(model), 3)
    ]
    del expected[1]
    assert [{k: v for k, v in row.items() if k != RELOAD_COLUMN} for row in rows] == expected
    assert {row[RELOAD_COLUMN] for row in rows} == {model}
    assert has_one_that_fits(missing)
    keys = [row["request_id"] for row in rows]
    store.append(Commit("part-2.parquet", keys, [""] * len(keys), 1, 1, 0.0))
    left = missing_requests(models, files, store, knobs)
    assert len(left) == 2
    assert not has_one_that_fits(left)


def test_progress_line_tells_share_kept_pace_and_what_was_paid(tmp_path, capsys):
    class Written:
        """Commits as the judging actors hand them over."""

        def iter_rows(self):
            for i in range(3):
                commit = Commit(f"part-{i}.parquet", [f"p{i}"], [""], 50, 5, 0.0, cost=0.25)
                commit = commit._replace(dropped=["too_few_correct"] if i == 1 else [""])
                yield {"commit": json.dumps(commit._asdict()), "failure": ""}

    log_commits(Written(), Store(tmp_path), 4, price_per_hour=0.0, max_failed_share=0.02)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "] 3/4  kept 67%  cost 0.75  " in last
    assert re.search(r"\d+ tokens/s  left \d+:\d\d$", last), last
    assert [commit.file for commit in Store(tmp_path).commits()] == [
        f"part-{i}.parquet" for i in range(3)
    ]
