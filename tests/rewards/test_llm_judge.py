"""The model that grades, against a real HTTP server that misbehaves."""

import json
import logging
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import pytest
from support.servers import Grader

from fastdistill_ray.recipe.loading import dump_recipe, load_recipe
from fastdistill_ray.rewards import RewardKnobs, Scorer
from fastdistill_ray.rewards.scorer import Answered, Scores
from fastdistill_ray.storage.place import Place

SECRET = "sk-very-secret-key"


@pytest.fixture
def endpoint() -> Iterator[Grader]:
    with Grader() as server:
        yield server


def knobs(endpoint: Grader, **changes: object) -> RewardKnobs:
    fields = {"base_url": endpoint.url, "model": "grader", "retries": 1, "time_limit": 200.0}
    return RewardKnobs(llm_judge={**fields, **changes}, weights={"cosine": 2.0, "llm_judge": 1.0})


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


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Sound. Score: 8", 0.8),
        ("**Score:** 8/10", 0.8),
        ("Score: 3 at first; then\nscore: 7.5", 0.75),
        ("SCORE = 10", 1.0),
        ("Score: 0", 0.0),
    ],
)
def test_grade_is_the_last_score_of_the_reply(endpoint: Grader, reply: str, value: float) -> None:
    (scores,) = score(knobs(endpoint), [f"reply {reply}"])
    assert scores.values == {"cosine": 0.75, "llm_judge": pytest.approx(value)}
    assert scores.reward == pytest.approx(1.5 + value)


@pytest.mark.parametrize(
    ("text", "tries", "reason"),
    [
        ("status 500", 2, "HTTP 500, tried 2 times"),
        ("status 429", 2, "HTTP 429, tried 2 times"),
        ("status 401", 1, "HTTP 401"),
        ("malformed", 2, "the response is no chat completion, tried 2 times"),
        ("empty", 2, "the response is no chat completion, tried 2 times"),
        ("hangup", 2, "RemoteProtocolError, tried 2 times"),
        ("reply I would not say.", 2, "no 'Score: N' from 0 to 10 in the reply, tried 2 times"),
        ("reply Score: 11", 2, "no 'Score: N' from 0 to 10 in the reply, tried 2 times"),
        ("reply Score: -1", 2, "no 'Score: N' from 0 to 10 in the reply, tried 2 times"),
    ],
)
def test_failing_endpoint_gives_no_reward_and_keeps_the_others(
    endpoint: Grader, tmp_path: Path, text: str, tries: int, reason: str
) -> None:
    good, bad = score(knobs(endpoint), ["fine", text], tmp_path)
    assert good.values["llm_judge"] == pytest.approx(0.7)
    assert bad.values == {"cosine": 0.75, "llm_judge": None}
    assert (bad.reward, bad.fault) == (None, f"score llm_judge: {reason}")
    assert endpoint.tries[text] == tries
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert len(lines) == 1, "a failure is not kept"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_endpoint_that_recovers_is_asked_again(endpoint: Grader, status: int) -> None:
    (scores,) = score(knobs(endpoint), [f"once {status}"])
    assert scores.values["llm_judge"] == pytest.approx(0.7)


def test_requests_at_once_are_bounded_and_a_dead_endpoint_is_given_up(endpoint: Grader) -> None:
    reward, endpoint.hold = knobs(endpoint, concurrency=4, retries=0), 4
    score(reward, [f"fine {i}" for i in range(40)])
    assert endpoint.most_running == 4
    failed = score(reward, [f"status 500 {i}" for i in range(40)])
    assert all(one.reward is None for one in failed)
    asked = sum(count for text, count in endpoint.tries.items() if text.startswith("status"))
    assert 8 <= asked <= 11
    assert failed[-1].fault == "score llm_judge: not asked, the endpoint failed too often in a row"


def test_slow_endpoint_ends_at_the_limit(endpoint: Grader) -> None:
    """It would go on for ever; the limit leaves the other one more than enough."""
    good, bad = score(knobs(endpoint, time_limit=3.0), ["fine", "trickle"])
    assert good.values["llm_judge"] == pytest.approx(0.7)
    assert (bad.reward, bad.fault) == (None, "score llm_judge: TimeoutError, tried 2 times")
    assert endpoint.tries["trickle"] == 2


def test_grades_are_kept_on_disk_and_not_paid_for_twice(endpoint: Grader, tmp_path: Path) -> None:
    texts = ["fine", "fine", "reply Score: 3"]
    first = score(knobs(endpoint), texts, tmp_path)
    assert len(endpoint.requests) == 2, "equal completions are asked once"
    (file,) = tmp_path.iterdir()
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
    reward = knobs(endpoint, api_key_env="GRADER_KEY", retries=0)
    scores = score(reward, ["fine", "status 401"], tmp_path)
    assert endpoint.requests[0]["authorization"] == f"Bearer {SECRET}"
    kept = "".join(file.read_text() for file in tmp_path.iterdir())
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
        ("--reward.llm_judge.base_url=ftp://x", "reward.llm_judge.base_url: expected http"),
        ("--reward.llm_judge.base_url=https://me:word@x/v1", "keep secrets out of the recipe"),
        ("--reward.llm_judge.base_url=https://x/v1?key=1", "keep secrets out of the recipe"),
        ("--reward.llm_judge.instructions=Grade!", "{completion} does not occur"),
        ("--reward.llm_judge.modle=x", "reward.llm_judge.modle: unknown key"),
        ("--reward.weights={llm_judge: 1}", "llm_judge needs reward.llm_judge.base_url"),
    ],
)
def test_wrong_settings_are_one_line(override: str, message: str) -> None:
    overrides = [override]
    if "weights" not in override:
        overrides = [
            "--reward.llm_judge.model=m",
            "--reward.llm_judge.base_url=http://x/v1",
            override,
        ]
    with pytest.raises(ValueError) as error:
        load_recipe("jobs/recipes/demo.yaml", overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_written_recipe_without_a_grader_can_be_given_one(tmp_path: Path) -> None:
    written = tmp_path / "recipe.yaml"
    written.write_text(dump_recipe(load_recipe("jobs/recipes/demo.yaml", [])))
    fields = {"base_url": "http://x/v1", "model": "m"}
    overrides = [f"--reward.llm_judge.{name}={value}" for name, value in fields.items()]
    recipe = load_recipe(str(written), [*overrides, "--reward.weights.llm_judge=1"])
    assert recipe.reward.llm_judge is not None and recipe.reward.llm_judge.model == "m"
    assert recipe.reward.weights == {"cosine": 2.0, "format": 1.0, "llm_judge": 1.0}


def test_reply_is_kept_to_be_read(endpoint: Grader, tmp_path: Path) -> None:
    score(knobs(endpoint), ["reply Sound.\nScore: 8"], tmp_path)
    (line,) = [json.loads(line) for f in tmp_path.iterdir() for line in f.read_text().splitlines()]
    assert (line["value"], line["reply"]) == (0.8, "Sound.\nScore: 8")
