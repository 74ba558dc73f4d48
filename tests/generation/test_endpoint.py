"""A server that fails in every way: nothing lost, nothing doubled, and a clear end."""

import asyncio
import json
import threading
import time
from functools import partial

import pyarrow as pa
import pytest
from support.servers import PROMPT_TOKENS, TOKENS_EACH, ChatProcess, ChatServer

from fastdistill_ray.endpoints.client import MAX_REFUSED, Client
from fastdistill_ray.endpoints.ledger import Paid, paid_in
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.asking import num_correct
from fastdistill_ray.generation.endpoint import EndpointEngine
from fastdistill_ray.generation.knobs import EndpointKnobs, EngineSpec, SamplingKnobs
from fastdistill_ray.generation.requests import build_requests
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.records import REQUEST_SCHEMA, Problem
from fastdistill_ray.storage.place import Place
from fastdistill_ray.verifiers import Judge, VerifierKnobs

SAMPLING = SamplingKnobs(n=4, max_new_tokens=64)
KEY = "sk-very-secret"


def requests(count: int) -> list[dict]:
    problems = [
        Problem(f"p{i}", "t", "train", f"What is {i} + 1?", "7", "number") for i in range(count)
    ]
    return build_requests(problems, PromptKnobs(system=""), None, 3)


def ask(
    rows: list[dict],
    url: str,
    sampling: SamplingKnobs = SAMPLING,
    paid: Place | None = None,
    **knobs,
) -> list[dict]:
    """Every row as a batch of its own, all at once, as the actor of a cluster gets them."""
    knobs = {"give_up_after": 600.0, "timeout": 300.0, **knobs}
    spec = EngineSpec("served", EndpointKnobs(url=url, **knobs), sampling, VerifierKnobs(), paid)
    engine = EndpointEngine(spec, partial(num_correct, Judge(VerifierKnobs())))

    async def answer(row: dict) -> dict:
        """What ends the stage in the actor stands in the row here."""
        try:
            batch = pa.Table.from_pylist([row], schema=REQUEST_SCHEMA)
            return (await engine(batch)).to_pylist()[0]
        except UserError as error:
            return {**row, "completions": [], "failure": f"the end: {error}"}

    async def run() -> list[dict]:
        try:
            return await asyncio.gather(*map(answer, rows))
        finally:
            await engine.client.close()

    return asyncio.run(run())


def assert_answered_once(rows: list[dict], answered: list[dict], n: int = 4) -> None:
    assert [row["problem_id"] for row in answered] == [row["problem_id"] for row in rows]
    for row, done in zip(rows, answered, strict=True):
        assert done["failure"] == ""
        seeds = [one["seed"] for one in done["completions"]]
        assert seeds == list(range(row["seed"], row["seed"] + n))
        assert all(f"seed {one['seed']}<" in one["text"] for one in done["completions"])


def test_endpoint_faulty_server_answers_every_problem_once_and_counts_what_it_used():
    faults = ["429", "", "malformed", "", "cut", "", "500", "503", "", "no_usage", *[""] * 9]
    rows = requests(20)
    with ChatServer(faults) as server:
        answered = ask(rows, server.url, price_prompt=2, price_completion=5)
    assert_answered_once(rows, answered)
    for done in answered:
        assert done["prompt_num_tokens"] == PROMPT_TOKENS
        assert sum(one["num_tokens"] for one in done["completions"]) == 4 * TOKENS_EACH
        assert done["cost"] == pytest.approx((PROMPT_TOKENS * 2 + 4 * TOKENS_EACH * 5) / 1e6)
        assert all(one["token_ids"] == [] for one in done["completions"])
        assert {one["finish_reason"] for one in done["completions"]} == {"stop"}
    assert sum(entry["fault"] == "" for entry in server.requests) == 20, "paid for once each"


def test_endpoint_killed_and_restarted_server_loses_and_doubles_nothing(tmp_path):
    rows = requests(24)
    log = tmp_path / "log.jsonl"
    server = ChatProcess(log, [*[""] * 6, "hang"])

    def restart() -> None:
        while not log.exists() or len(log.read_text().splitlines()) < 6 + 3:
            time.sleep(0.02)
        server.kill()
        time.sleep(0.5)  # where nothing answers at all
        server.start([""])

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        answered = ask(rows, server.url, max_concurrency=3)
    finally:
        thread.join()
        server.kill()
    assert_answered_once(rows, answered)
    asked = [json.loads(line)["body"]["seed"] for line in log.read_text().splitlines()]
    assert len(asked) == 24 + 3, "requests in flight at the kill are asked again, no others"
    assert len(set(asked)) == 24


def test_endpoint_server_gone_gives_up_with_one_line_and_asks_no_more(monkeypatch):
    with ChatServer([""]) as server:
        url = server.url
    attempt, begin, given_up = Client._attempt, time.monotonic(), []

    async def counted(client: Client, body: dict) -> object:
        given_up.append(bool(client.failure))
        return await attempt(client, body)

    monkeypatch.setattr(Client, "_attempt", counted)
    answered = ask(requests(6), url, give_up_after=1.5, max_concurrency=2)
    assert time.monotonic() - begin > 1.5
    assert len(given_up) > 2 and not any(given_up)
    for row in answered:
        assert row["completions"] == []
        assert "teacher served at http://127.0.0.1" in row["failure"]
        assert "engine.give_up_after: 1.5 s" in row["failure"]
        assert "\n" not in row["failure"]


def test_endpoint_unusable_answers_end_the_run_before_they_cost_a_fortune():
    with ChatServer(["malformed"]) as server:
        (answered,) = ask(requests(1), server.url)
    assert "gave 5 unusable answers: not JSON" in answered["failure"]
    assert len(server.requests) == 5


def test_endpoint_key_comes_from_the_environment_and_is_never_repeated(monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    with ChatServer([""]) as server:
        assert_answered_once(requests(1), ask(requests(1), server.url, api_key_env="SOME_KEY"))
        assert server.requests[0]["authorization"] == f"Bearer {KEY}"
    with ChatServer(["401"]) as server:  # it says the key in its answer
        answered = ask(requests(20), server.url, api_key_env="SOME_KEY", max_concurrency=2)
    assert all("HTTP 401" in row["failure"] and KEY not in str(row) for row in answered)
    assert len(server.requests) <= 2, "a server that says no is not asked again"


def test_endpoint_paces_requests_and_waits_as_long_as_it_is_told():
    """A busy machine makes every wait longer, none shorter."""
    begin = time.monotonic()
    with ChatServer([""]) as server:
        ask(requests(8), server.url, requests_per_minute=600)
    assert max(entry["time"] for entry in server.requests) - begin > 0.65, "ten a second"
    with ChatServer(["429", ""]) as server:
        ask(requests(1), server.url)
    assert server.requests[1]["time"] - server.requests[0]["time"] >= 0.3
    begin = time.monotonic()
    with ChatServer([""]) as server:  # 11 + 28 tokens a request, of 39 a second
        ask(requests(4), server.url, tokens_per_minute=39 * 60, max_concurrency=1)
    assert server.requests[3]["time"] - begin > 2.5


def test_endpoint_concurrency_is_bounded():
    with ChatServer([""], hold=3, seconds=0.05) as server:
        ask(requests(12), server.url, max_concurrency=3)
    assert server.most_running == 3


def test_endpoint_problem_that_fails_leaves_the_others_alone_and_keeps_what_is_paid():
    """One problem's answers are errors, by status and by an error object with status 200."""
    for fault in ("500", "malformed"):
        rows = requests(4)
        question = rows[2]["messages"][-1]["content"]
        with ChatServer([""], failing={question: fault}, most_choices=3) as server:
            answered = ask(rows, server.url, give_up_after=2.0)
        assert [len(row["completions"]) for row in answered] == [4, 4, 0, 4]
        assert "gave" in answered[2]["failure"] and "the end" not in answered[2]["failure"]


def test_endpoint_partly_answered_problem_goes_on_where_it_was():
    (row,) = requests(1)
    with ChatServer(["", *["malformed"] * 10, ""], most_choices=3) as server:
        spec = EngineSpec("served", EndpointKnobs(url=server.url), SAMPLING, VerifierKnobs())
        engine = EndpointEngine(spec, partial(num_correct, Judge(VerifierKnobs())))
        batch = pa.Table.from_pylist([row], schema=REQUEST_SCHEMA)

        async def twice() -> list[dict]:
            try:
                return [(await engine(batch)).to_pylist()[0] for _ in range(2)]
            finally:
                await engine.client.close()

        first, second = asyncio.run(twice())
    assert "5 unusable answers" in first["failure"]
    assert_answered_once([row], [second])
    good = [entry for entry in server.requests if entry["fault"] == ""]
    assert [entry["body"]["n"] for entry in good] == [4, 1], "three were paid for and kept"


@pytest.mark.parametrize("said", ["credit balance too low", "You exceeded your current quota"])
def test_endpoint_that_refuses_the_account_ends_the_stage_and_sets_nothing_aside(said):
    with ChatServer(["400"], says=said) as server:
        answered = ask(requests(6), server.url, max_concurrency=1)
    assert all(row["failure"].startswith("the end: ") for row in answered)
    assert said in answered[0]["failure"] and len(server.requests) == 1


def test_endpoint_refused_problem_is_set_aside_and_a_refused_recipe_ends_the_run():
    rows = requests(6)
    question = rows[4]["messages"][-1]["content"]
    with ChatServer([""], refused=[question]) as server:
        answered = ask(rows, server.url)
    assert [len(row["completions"]) for row in answered] == [4, 4, 4, 4, 0, 4]
    assert {row["failure"] for row in answered} == {""}
    with ChatServer(["422"]) as server:
        answered = ask(requests(30), server.url, max_concurrency=1)
    assert "the end: " in answered[-1]["failure"] and "HTTP 422" in answered[-1]["failure"]
    assert len(server.requests) == MAX_REFUSED


def test_endpoint_that_has_answered_nothing_yet_refuses_no_problem_for_good():
    """Its own setting may be why; and one that refuses some is known by an answer to another."""
    rows = requests(4)
    with ChatServer(["400", "400", ""], says="context_length_exceeded") as server:
        assert_answered_once(rows, ask(rows, server.url, max_concurrency=1))
    refused = [row["messages"][-1]["content"] for row in rows[:3]]
    with ChatServer([""], refused=refused, seconds=3.0) as server:
        answered = ask(rows, server.url, max_concurrency=4)
    assert [len(row["completions"]) for row in answered] == [0, 0, 0, 4]
    assert {row["failure"] for row in answered} == {""}, "refused, not failed"
    assert len(server.requests) > 4, "asked again until the first answer"


def test_endpoint_that_is_away_for_a_day_ends_the_stage_at_once():
    with ChatServer(["429"], wait="86400") as server:
        answered = ask(requests(3), server.url, max_concurrency=1)
    assert all(row["failure"].startswith("the end: ") for row in answered)
    assert "HTTP 429" in answered[0]["failure"] and len(server.requests) == 1


def test_endpoint_completions_that_came_before_a_refusal_are_kept():
    (row,) = requests(1)
    with ChatServer(["", "400"], most_choices=3, says="content_filter") as server:
        (answered,) = ask([row], server.url, max_concurrency=1)
    assert len(answered["completions"]) == 3 and not answered["failure"]
    assert answered["cost"] >= 0


def test_endpoint_server_that_gives_fewer_choices_is_asked_for_the_rest():
    rows = requests(2)
    with ChatServer([""], most_choices=3) as server:
        answered = ask(rows, server.url)
    assert_answered_once(rows, answered)
    asked = sorted((entry["body"]["seed"], entry["body"]["n"]) for entry in server.requests)
    assert asked == sorted(
        pair for row in rows for pair in [(row["seed"], 4), (row["seed"] + 3, 1)]
    )


def test_endpoint_request_holds_what_the_recipe_sets_and_nothing_else():
    sampling = SamplingKnobs(n=2, temperature=0.5, top_p=0.9, stop=["\n\n"], max_new_tokens=9)
    (row,) = requests(1)
    with ChatServer([""]) as server:
        ask([row], server.url, sampling, extra={"user": "me"}, length_field="max_completion_tokens")
        ask([row], server.url, sampling.model_copy(update={"stop": [], "top_k": 5}))
    assert server.requests[0]["body"] == {
        "model": "served",
        "messages": [{"role": "user", "content": "What is 0 + 1?"}],
        "n": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_completion_tokens": 9,
        "seed": row["seed"],
        "stop": ["\n\n"],
        "user": "me",
    }
    assert server.requests[1]["body"]["top_k"] == 5
    assert "stop" not in server.requests[1]["body"]


def test_endpoint_goes_on_until_enough_are_correct_and_stops_at_the_limit():
    rows = requests(2)
    rows[1]["reference"] = "no such answer"  # seeds are even: completion 0 is 7, completion 1 is 8
    sampling = SamplingKnobs(n=1, max_n=4, enough=2)
    with ChatServer([""]) as server:
        answered = ask(rows, server.url, sampling)
    assert [len(row["completions"]) for row in answered] == [3, 4]
    seeds = [[one["seed"] - row["seed"] for one in row["completions"]] for row in answered]
    assert seeds == [[0, 1, 2], [0, 1, 2, 3]]


def test_endpoint_streams_give_what_whole_answers_give_and_may_take_longer_than_the_limit():
    rows = requests(3)
    with ChatServer([""]) as server:
        whole = ask(rows, server.url)
    with ChatServer([""], pause=0.1) as server:  # six seconds and more in all
        begin = time.monotonic()
        streamed = ask(rows, server.url, stream=True, timeout=5.0)
        assert time.monotonic() - begin > 5.0
    assert streamed == whole
    assert server.requests[0]["body"]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("fault", ["torn", "comments"])
def test_endpoint_stream_that_breaks_off_or_only_keeps_the_line_open_is_asked_again(
    fault, tmp_path
):
    rows = requests(2)
    with ChatServer([fault, ""]) as server:
        answered = ask(
            rows, server.url, paid=Place(tmp_path), stream=True, timeout=3.0, max_concurrency=1
        )
    assert_answered_once(rows, answered)
    assert len(server.requests) > 2
    paid = paid_in(Place(tmp_path))
    assert (paid.answers, paid.untold) == (len(server.requests), len(server.requests) - 2)


def test_endpoint_server_that_does_not_stream_is_read_all_the_same():
    with ChatServer(["no_usage", "malformed", ""]) as server:
        server.answers["most_choices"] = 2
        body = ask(requests(1), server.url, extra={"stream": False})
    assert_answered_once(requests(1), body)


def test_endpoint_every_answer_is_in_the_ledger_kept_or_not(tmp_path):
    """11 prompt and 7 completion tokens each; three answers did not tell, one broke off."""
    rows = requests(5)
    question = rows[4]["messages"][-1]["content"]
    faults = ["malformed", "no_usage", "cut", "429", "500", ""]
    with ChatServer(faults, failing={question: "no_usage"}, most_choices=3) as server:
        answered = ask(
            rows, server.url, paid=Place(tmp_path), price_prompt=2, price_completion=5,
            max_concurrency=1,
        )  # fmt: skip
    assert [len(row["completions"]) for row in answered] == [4, 4, 4, 4, 0]
    sent = [
        entry
        for entry in server.requests
        if entry["fault"] not in ("429", "500")
        or entry["body"]["messages"][-1]["content"] == question
    ]
    told = 2 * 4  # each of four problems: three completions, then one
    kept = sum(row["cost"] for row in answered)
    assert kept == pytest.approx((told * PROMPT_TOKENS * 2 + 4 * 4 * TOKENS_EACH * 5) / 1e6)
    untold = len(sent) - told
    assert untold >= 3 + 5 - 1
    paid = paid_in(Place(tmp_path))
    assert paid == Paid(
        len(sent), told * PROMPT_TOKENS, 16 * TOKENS_EACH, pytest.approx(kept), untold
    )
    with ChatServer(["hang"]) as server:
        ask(requests(1), server.url, paid=Place(tmp_path), timeout=0.5, give_up_after=0.1)
    assert paid_in(Place(tmp_path)).untold == untold + len(server.requests)


def test_endpoint_completions_that_are_lost_with_their_actor_are_in_the_ledger(tmp_path):
    """The ledger of a killed process may end within a line."""
    with ChatServer([""]) as server:
        ask(requests(2), server.url, paid=Place(tmp_path), price_completion=1)
    (file,) = (tmp_path / "paid").iterdir()
    file.write_text(file.read_text() + '{"prompt": 11, "compl')
    paid = paid_in(Place(tmp_path))
    assert (paid.answers, paid.untold) == (3, 1)
    assert paid.cost == pytest.approx(2 * 4 * TOKENS_EACH / 1e6)
