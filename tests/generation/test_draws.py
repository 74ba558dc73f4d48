"""Which completions are drawn when, and until how many are correct."""

import asyncio
from functools import partial

import numpy as np
import pytest
from support.requests import completion, request

from fastdistill_ray.endpoints.client import RefusedError
from fastdistill_ray.errors import FailedError
from fastdistill_ray.generation.asking import num_correct
from fastdistill_ray.generation.draws import Draw, Part, PartlyError, draws, reply_to
from fastdistill_ray.generation.knobs import SamplingKnobs
from fastdistill_ray.generation.outputs import RawCompletion
from fastdistill_ray.verifiers import Judge, VerifierKnobs


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


@pytest.mark.parametrize(("n", "prompts"), [(8, 3), (4, 4), (5, 2)])
def test_every_prompt_has_its_share_of_each_round_of_draws(n, prompts):
    sampling = SamplingKnobs(n=n, max_n=2 * n)
    for done in (0, n):
        asked = draws(sampling, done, prompts)
        assert [draw.prompt for draw in asked] == list(range(prompts)), "each is asked once"
        counts = [draw.count for draw in asked]
        assert sum(counts) == n and max(counts) - min(counts) <= 1
        assert [draw.first for draw in asked] == [done + sum(counts[:i]) for i in range(prompts)]


def test_draw_is_asked_with_its_own_prompt():
    row = {**request(0), "others": [{"messages": ["b"], "prompt_token_ids": [5]}]}
    seen = []

    async def ask(row: dict, draw: Draw) -> Part:
        seen.append((row["prompt_token_ids"], row["problem_id"], draw.first, draw.count))
        return Part(
            [completion("x", 1, 0) for _ in range(draw.count)], len(row["prompt_token_ids"])
        )

    reply = asyncio.run(reply_to(row, SamplingKnobs(n=4), ask, lambda *_: 0))
    own = row["prompt_token_ids"]
    assert sorted(seen, key=str) == sorted(
        [(own, row["problem_id"], 0, 2), ([5], row["problem_id"], 2, 2)], key=str
    )
    assert len(reply.completions) == 4


def test_draws_that_came_behind_one_that_failed_are_not_asked_again():
    row = {
        **request(0),
        "others": [{"messages": [name], "prompt_token_ids": [5]} for name in "bcd"],
    }
    asked = []

    async def ask(_: dict, draw: Draw) -> Part:
        asked.append(draw.first)
        if draw.first == 2 and len(asked) <= 4:
            raise FailedError("no answer")
        return Part([completion(str(draw.first + i), 1, 0) for i in range(draw.count)], 1, 0.5)

    with pytest.raises(PartlyError) as failed:
        asyncio.run(reply_to(row, SamplingKnobs(n=8), ask, lambda *_: 0))
    reply = asyncio.run(reply_to(row, SamplingKnobs(n=8), ask, lambda *_: 0, failed.value.begun))
    assert asked == [0, 2, 4, 6, 2]
    assert [one.text for one in reply.completions] == list("01234567")
    assert reply.cost == 2.0, "four answers were paid"


@pytest.mark.parametrize(
    ("right", "enough", "rounds"),
    [([0], 1, 1), ([2], 1, 2), ([0, 5], 2, 3), ([], 1, 4), ([0, 1, 2, 3], 3, 2)],
)
def test_reply_draws_rounds_until_enough_are_correct(right, enough, rounds):
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
        found = asyncio.run(reply_to(request(0), sampling, ask, partial(num_correct, judge)))
    assert firsts == [0, 2, 4, 6][:rounds]
    assert [one.seed for one in found.completions] == list(range(min(2 * rounds, 7)))
    assert (found.prompt_num_tokens, found.cost) == (3, 0.5 * rounds)


@pytest.mark.parametrize("refused", [0, 1])
def test_what_came_is_kept_whichever_draw_was_refused(refused):
    sampling = SamplingKnobs(n=3, temperatures=[0.5, 0.7, 0.9])

    async def ask(row: dict, draw: Draw) -> Part:
        if draw.first == refused:
            raise RefusedError("not this one")
        return Part([completion("x", 1, draw.first)], 3, 0.5)

    found = asyncio.run(reply_to(request(0), sampling, ask, lambda *_: 0))
    assert [one.seed for one in found.completions] == [k for k in range(3) if k != refused]
    assert found.cost == 1.0


@pytest.mark.parametrize(
    ("text", "ids", "finish_reason", "stop", "written"),
    [
        ("<think>a</think><answer>7", [], "stop", ["</answer>"], "</answer>"),
        ("<answer>6</answer><answer>7", [], "stop", ["</answer>", "Q:"], "</answer>"),
        ("<answer>7</answer> and so on", [], "stop", ["</answer>", "on"], ""),
        ("7", [], "stop", ["</answer>"], ""),
        ("<answer>7", [], "length", ["</answer>"], ""),
        ("<answer>7", [5, 6], "stop", ["</answer>"], ""),  # it ended by itself
        ("<answer>7", [], "stop", ["Q:"], ""),
    ],
)
def test_stop_text_that_closes_the_answer_is_part_of_it(text, ids, finish_reason, stop, written):
    raw = RawCompletion(text, np.array(ids, np.int32), finish_reason, 3, 0)

    async def ask(_row: dict, _draw: Draw) -> Part:
        return Part([raw], 3)

    with Judge(VerifierKnobs()) as judge:
        sampling = SamplingKnobs(n=1, stop=stop)
        found = asyncio.run(reply_to(request(0), sampling, ask, partial(num_correct, judge)))
        (one,) = found.completions
        assert one.text == text + written
        if written:
            judged = judge.judge("number", one.text, "7", finish_reason=one.finish_reason)
            assert judged.verdict == "correct"
