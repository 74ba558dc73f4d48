"""The model that grades, against a real HTTP server that misbehaves."""

import json
import logging
import re
import time
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import pytest
from support.servers import PROMPT_TOKENS, TOKENS_EACH, Grader

from fastdistill_ray.endpoints import client
from fastdistill_ray.endpoints.ledger import paid_in
from fastdistill_ray.recipe.loading import dump_recipe, load_recipe
from fastdistill_ray.rewards import RewardKnobs, Scorer
from fastdistill_ray.rewards.scorer import Answered, Scores
from fastdistill_ray.storage.place import Place

SECRET = "sk-very-secret-key"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Grader]:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    with Grader() as server:
        yield server


def knobs(endpoint: Grader, **changes: object) -> RewardKnobs:
    fields = {"url": endpoint.url, "model": "grader", "give_up_after": 10.0, "timeout": 200.0}
    return RewardKnobs(llm_judge={**fields, **changes}, weights={"llm_judge": 1.0, "format": 0})


def score(
    reward: RewardKnobs, texts: list[str], cache: PathLike[str] | None = None
) -> list[Scores]:
    with Scorer(reward, Place(cache) if cache else None) as scorer:
        return scorer.score(
            [
                Answered(t, 1024, "stop", "6*{reference}?", "number", "42", "correct", "42")
                for t in texts
            ]
        )


def grades(cache: Path) -> list[Path]:
    return [file for file in cache.iterdir() if file.is_file()]


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Sound. Score: 8", 0.8),
        ("**Score:** 8/10", 0.8),
        ("Score: 3 at first; then\nscore: 7.5", 0.75),
        ("SCORE = 10", 1.0),
        ("Score: 0", 0.0),
        ("<think>\n\n</think>\n\nScore: 8", 0.8),
        ("<think>A draft:\nScore: 3\n</think>\nSound.\nScore: 8", 0.8),
    ],
)
def test_grade_is_the_last_score_of_the_reply(endpoint: Grader, reply: str, value: float) -> None:
    (scores,) = score(knobs(endpoint), [f"reply {reply}"])
    assert scores.values == {"cosine": 0.75, "format": 0.0, "llm_judge": pytest.approx(value)}
    assert scores.reward == pytest.approx(1.5 + value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("status 500", "gave no answer to .* attempts .*: BusyError: HTTP 500"),
        ("status 429", "gave no answer to .* attempts .*: BusyError: HTTP 429"),
        ("status 401", "judge grader at .* will not serve this recipe: HTTP 401"),
        ("malformed", "gave 5 unusable answers: not JSON"),
        ("empty", "gave 5 unusable answers: an empty list of choices"),
        ("hangup", "gave no answer to .* attempts .*reward.llm_judge.give_up_after: 1 s.*Disconn"),
        ("reply <think>Score: 3\nor", "gave 5 unusable answers: no 'Score: N' from 0 to 10 in"),
        ("reply I would not say.", "gave 5 unusable answers: no 'Score: N' from 0 to 10 in"),
        ("reply Score: 11", "gave 5 unusable answers: no 'Score: N' from 0 to 10 in the reply"),
        ("reply Score: -1", "gave 5 unusable answers: no 'Score: N' from 0 to 10 in the reply"),
    ],
)
def test_failing_endpoint_gives_no_reward_and_keeps_the_others(
    endpoint: Grader, tmp_path: Path, text: str, reason: str
) -> None:
    endpoint.hold = 2  # both are asked before one is answered
    reward = knobs(endpoint, give_up_after=1.0 if "attempts" in reason else 200.0)
    good, bad = score(reward, ["fine", text], tmp_path)
    assert good.values["llm_judge"] == pytest.approx(0.7)
    assert bad.values == {"cosine": 0.75, "format": 0.0, "llm_judge": None}
    assert bad.reward is None
    assert re.match(f"score llm_judge: .*{reason}", bad.fault)
    lines = [line for file in grades(tmp_path) for line in file.read_text().splitlines()]
    assert len(lines) == 1, "a failure is not kept"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_endpoint_that_recovers_is_asked_again(endpoint: Grader, status: int) -> None:
    (scores,) = score(knobs(endpoint), [f"once {status}"])
    assert scores.values["llm_judge"] == pytest.approx(0.7)


def test_requests_at_once_are_bounded_and_a_dead_endpoint_is_given_up(endpoint: Grader) -> None:
    reward, endpoint.hold = knobs(endpoint, max_concurrency=4, give_up_after=0.01), 4
    score(reward, [f"fine {i}" for i in range(40)])
    assert endpoint.most_running == 4
    failed = score(reward, [f"status 500 {i}" for i in range(40)])
    assert all(one.reward is None for one in failed)
    asked = sum(count for text, count in endpoint.tries.items() if text.startswith("status"))
    assert asked <= 40 + 4, "once each, and then by those in flight"
    assert "judge grader at http" in failed[-1].fault
    (again,) = score(reward, ["fine again"])
    assert again.reward is not None, "later completions are asked again"


def test_pace_is_kept_from_one_call_to_the_next(endpoint: Grader) -> None:
    """Ten a second, a call each; a busy machine only makes it slower."""
    reward, begin = knobs(endpoint, requests_per_minute=600), time.monotonic()
    with Scorer(reward) as scorer:
        for number in range(6):
            answered = Answered(f"{number}", 1024, "stop", "?", "number", "42", "correct", "42")
            scorer.score([answered])
    assert time.monotonic() - begin > 0.45
    assert len(endpoint.requests) == 6


@pytest.mark.long
def test_slow_endpoint_ends_at_the_limit(endpoint: Grader) -> None:
    """It would go on for ever; the limit leaves the other one more than enough."""
    endpoint.hold = 2
    good, bad = score(knobs(endpoint, timeout=3.0), ["fine", "trickle"])
    assert good.values["llm_judge"] == pytest.approx(0.7)
    assert bad.reward is None and "TimeoutError" in bad.fault


def test_what_graders_are_paid_is_in_the_ledger(endpoint: Grader, tmp_path: Path) -> None:
    reward = knobs(endpoint, give_up_after=200.0, price_prompt=2, price_completion=5)
    score(reward, ["usage fine", "usage too", "no usage told", "reply nonsense"], tmp_path)
    paid = paid_in(Place(tmp_path))
    assert (paid.answers, paid.untold) == (2 + 1 + 5, 1 + 5)
    assert (paid.prompt_tokens, paid.completion_tokens) == (2 * PROMPT_TOKENS, 2 * TOKENS_EACH)
    assert paid.cost == pytest.approx(2 * (PROMPT_TOKENS * 2 + TOKENS_EACH * 5) / 1e6)


def test_grades_are_kept_on_disk_and_not_paid_for_twice(endpoint: Grader, tmp_path: Path) -> None:
    texts = ["fine", "fine", "reply Score: 3"]
    first = score(knobs(endpoint), texts, tmp_path)
    assert len(endpoint.requests) == 2, "equal completions are asked once"
    (file,) = grades(tmp_path)
    file.write_text(file.read_text() + '{"key": "torn')
    assert score(knobs(endpoint), texts, tmp_path) == first
    assert len(endpoint.requests) == 2
    score(knobs(endpoint, model="another"), texts, tmp_path)
    assert len(endpoint.requests) == 4


def test_key_comes_from_the_environment_and_is_kept_nowhere(
    endpoint: Grader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("GRADER_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    reward = knobs(endpoint, api_key_env="GRADER_KEY")
    scores = score(reward, ["fine", "status 401"], tmp_path)
    assert endpoint.requests[0]["authorization"] == f"Bearer {SECRET}"
    kept = "".join(file.read_text() for file in tmp_path.rglob("*.jsonl"))
    assert SECRET not in kept + repr(scores) + reward.model_dump_json() + caplog.text
    monkeypatch.delenv("GRADER_KEY")
    with pytest.raises(ValueError, match=r"reward.llm_judge.api_key_env: .*GRADER_KEY is not set"):
        score(reward, ["fine"])


def test_request_holds_the_problem_and_no_field_of_a_solution_is_filled(endpoint: Grader) -> None:
    score(knobs(endpoint, max_score=8), ["{question} {reference} \\boxed{}"])
    (request,) = endpoint.requests
    assert request["path"] == "/v1/chat/completions"
    assert (request["body"]["model"], request["body"]["temperature"]) == ("grader", 0)
    prompt = request["body"]["messages"][0]["content"]
    assert "6*{reference}?" in prompt and "\n42\n" in prompt and "N from 0 (useless) to 8" in prompt
    assert "{question} {reference} \\boxed{}" in prompt


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--reward.llm_judge.url=ftp://x", "reward.llm_judge.url: expected http"),
        ("--reward.llm_judge.url=https://me:word@x/v1", "keep secrets out of the recipe"),
        ("--reward.llm_judge.url=https://x/v1?key=1", "keep secrets out of the recipe"),
        ("--reward.llm_judge.instructions=Grade!", "{completion} does not occur"),
        ("--reward.llm_judge.modle=x", "reward.llm_judge.modle: unknown key"),
        ("--reward.weights={llm_judge: 1}", "llm_judge needs reward.llm_judge.url"),
    ],
)
def test_wrong_settings_are_one_line(override: str, message: str) -> None:
    overrides = [override]
    if "weights" not in override:
        overrides = [
            "--reward.llm_judge.model=m",
            "--reward.llm_judge.url=http://x/v1",
            override,
        ]
    with pytest.raises(ValueError) as error:
        load_recipe("jobs/recipes/demo_full.yaml", overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_written_recipe_without_a_grader_can_be_given_one(tmp_path: Path) -> None:
    written = tmp_path / "recipe.yaml"
    written.write_text(dump_recipe(load_recipe("jobs/recipes/demo_full.yaml", [])))
    fields = {"url": "http://x/v1", "model": "m"}
    overrides = [f"--reward.llm_judge.{name}={value}" for name, value in fields.items()]
    recipe = load_recipe(str(written), [*overrides, "--reward.weights.llm_judge=1"])
    assert recipe.reward.llm_judge is not None and recipe.reward.llm_judge.model == "m"
    assert recipe.reward.weights == {"cosine": 2.0, "format": 1.0, "llm_judge": 1.0}


def test_reply_is_kept_to_be_read(endpoint: Grader, tmp_path: Path) -> None:
    score(knobs(endpoint), ["reply Sound.\nScore: 8"], tmp_path)
    (line,) = [json.loads(line) for f in grades(tmp_path) for line in f.read_text().splitlines()]
    assert (line["value"], line["reply"]) == (0.8, "Sound.\nScore: 8")
