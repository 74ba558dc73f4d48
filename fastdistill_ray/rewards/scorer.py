"""All scores by name, what a recipe says of them, and their weighted sum."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, FiniteFloat, field_validator

from fastdistill_ray.errors import UserError
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.records import Kind, Verdict
from fastdistill_ray.rewards.functions import (
    START_LIMIT,
    FunctionKnobs,
    FunctionProcess,
    ScoreError,
)
from fastdistill_ray.rewards.lengths import CosineKnobs, LengthKnobs, cosine_score, length_score
from fastdistill_ray.rewards.llm_judge import LlmJudge, LlmJudgeKnobs
from fastdistill_ray.rewards.repetition import RepetitionKnobs, repetition_score
from fastdistill_ray.rewards.template import FormatKnobs, format_score
from fastdistill_ray.storage.place import Place
from fastdistill_ray.verifiers import VerifierKnobs

LLM_JUDGE = "llm_judge"


class Answered(NamedTuple):
    """A judged completion as a score sees it."""

    text: str
    num_tokens: int
    finish_reason: str
    question: str
    kind: Kind
    reference: str
    verdict: Verdict
    answer: str

    @property
    def is_correct(self) -> bool:
        return self.verdict == "correct"


class RewardKnobs(Knobs):
    FREE = frozenset({"max_failed_share"})

    cosine: CosineKnobs = CosineKnobs.model_validate({})  # all of its preset
    format: FormatKnobs = FormatKnobs()
    repetition: RepetitionKnobs = RepetitionKnobs()
    length: LengthKnobs = LengthKnobs()
    llm_judge: LlmJudgeKnobs | None = Field(
        default=None, description="A model that grades; none: no such."
    )
    functions: dict[str, FunctionKnobs] = Field(
        default={}, description="Own scores, name: file.py:function."
    )
    weights: dict[str, FiniteFloat] = Field(
        default={"cosine": 2.0, "format": 1.0},
        description="Score name -> weight, eq. 2: those given are put over these. Only scores with "
        "a weight are computed; with weight 0 one is taken out: it is stored and does not count. A "
        "completion whose score fails has verdict error and no reward: it leaves its group, whose "
        "advantages and weights are those of the others.",
    )
    reference: Literal["gold", "vote"] = Field(
        default="gold",
        description="What training completions are judged by: the problems' answers, or the answer "
        "that most completions of the problem give, which then needs none "
        "(selection.min_agreement).",
    )
    length_unit: Literal["tokens", "characters"] = Field(
        default="tokens",
        description="What a completion's length is counted in (the teacher's tokens).",
    )
    max_failed_share: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Generation stops when more of the completions (of 200 where they are fewer) "
        "are of verdict error or timeout. May be changed for a run that exists.",
    )
    verifier: VerifierKnobs = VerifierKnobs()

    @field_validator("weights", mode="before")
    @classmethod
    def _put_over_defaults(cls, weights: Any) -> Any:
        default = cls.model_fields["weights"].default
        return {**default, **weights} if isinstance(weights, dict) else weights

    @field_validator("weights")
    @classmethod
    def _check_some_count(cls, weights: dict[str, float]) -> dict[str, float]:
        if not any(weights.values()):
            raise ValueError("all are 0, so that no completion is better than another; raise one")
        return weights

    @field_validator("functions")
    @classmethod
    def _check_names(cls, functions: dict[str, FunctionKnobs]) -> dict[str, FunctionKnobs]:
        if taken := sorted(set(functions) & {*SCORES, LLM_JUDGE}):
            raise ValueError(f"{taken[0]} is the name of a built-in score; choose another")
        return functions

    def length_of(self, one: Answered) -> int:
        return one.num_tokens if self.length_unit == "tokens" else len(one.text)


# Scores that need nothing but the completion; a new one is a line here.
SCORES: dict[str, Callable[[Answered, RewardKnobs], float]] = {
    "cosine": lambda one, knobs: cosine_score(knobs.length_of(one), one.is_correct, knobs.cosine),
    "format": lambda one, knobs: format_score(one.text, knobs.format),
    "repetition": lambda one, knobs: repetition_score(one.text, one.is_correct, knobs.repetition),
    "length": lambda one, knobs: length_score(knobs.length_of(one), knobs.length),
}


class Scores(NamedTuple):
    """Raw values, None where one failed; where that counts, a fault in place of a reward."""

    values: dict[str, float | None]
    reward: float | None
    fault: str


class Scorer:
    """Gives completions the scores of a recipe; its processes and its endpoint start when used.

    `cache` is the folder that keeps what was paid for; None: nothing is kept.
    """

    def __init__(self, knobs: RewardKnobs, cache: Place | None = None) -> None:
        self._knobs = knobs
        self._functions = {
            name: FunctionProcess(function)
            for name, function in knobs.functions.items()
            if name in knobs.weights
        }
        self._llm_judge = None
        if knobs.llm_judge is not None and LLM_JUDGE in knobs.weights:
            self._llm_judge = LlmJudge(knobs.llm_judge, cache)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        for process in self._functions.values():
            process.close()

    def check(self) -> None:
        """UserError where a score cannot even start."""
        for name, process in self._functions.items():
            try:
                process.start()
            except ScoreError as error:
                raise UserError(f"reward.functions.{name}: {error}") from error

    def score(self, completions: list[Answered]) -> list[Scores]:
        """One entry per completion, in order. Give many at a time: an endpoint is asked at once."""
        asked = [completion._asdict() for completion in completions]
        graded = self._llm_judge.score(asked) if self._llm_judge else [None] * len(asked)
        return [
            self._scores(completion, grade)
            for completion, grade in zip(completions, graded, strict=True)
        ]

    def _scores(self, completion: Answered, grade: float | ScoreError | None) -> Scores:
        values: dict[str, float | None] = {}
        fault = ""
        for name, weight in self._knobs.weights.items():
            try:
                values[name] = self._value(name, completion, grade)
            except ScoreError as error:
                values[name] = None
                if weight and not fault:
                    fault = f"score {name}: {error}"
        reward = None if fault else weighted_reward(values, self._knobs.weights)
        return Scores(values, reward, fault)

    def _value(self, name: str, completion: Answered, grade: float | ScoreError | None) -> float:
        if name in SCORES:
            return SCORES[name](completion, self._knobs)
        if name in self._functions:
            return self._functions[name].score(completion._asdict())
        if isinstance(grade, float):
            return grade
        assert isinstance(grade, ScoreError)
        raise grade


def weighted_reward(scores: Mapping[str, Any], weights: Mapping[str, float]) -> float:
    """Eq. 2 of arXiv 2507.00054; a score without a weight does not count, nor one of weight 0."""
    return sum(weight * scores[name] for name, weight in weights.items() if weight)


def describe_rewards(knobs: RewardKnobs) -> str:
    """What counts, with its weight and where it comes from; then what is only stored."""
    origins = {name: f" ({function.path})" for name, function in knobs.functions.items()}
    if knobs.llm_judge:
        origins[LLM_JUDGE] = f" ({knobs.llm_judge.model} at {knobs.llm_judge.url})"
    counted = " + ".join(
        f"{weight:g} {name}{origins.get(name, '')}"
        for name, weight in knobs.weights.items()
        if weight
    )
    stored = ", ".join(name for name, weight in knobs.weights.items() if not weight)
    return f"{counted}; stored, not counted: {stored}" if stored else counted


def weight_errors(knobs: RewardKnobs) -> list[str]:
    """Weights of scores there are none of, and scores of a recipe's own that have none."""
    own = {f"functions.{name}": name for name in knobs.functions}
    if knobs.llm_judge:
        own[LLM_JUDGE] = LLM_JUDGE
    idle = [
        f"reward.{field}: it has no weight and would not be asked; set reward.weights.{name}, 0 to "
        "have it stored without counting"
        for field, name in own.items()
        if name not in knobs.weights
    ]
    return idle + _unknown_weights(knobs)


def _unknown_weights(knobs: RewardKnobs) -> list[str]:
    known = [*SCORES, *knobs.functions, *([LLM_JUDGE] if knobs.llm_judge else [])]
    unknown = [name for name in knobs.weights if name not in known]
    if not unknown:
        return []
    hint = "; llm_judge needs reward.llm_judge.url and .model" if LLM_JUDGE in unknown else ""
    return [f"reward.weights: no score is named {unknown}; known: {', '.join(known)}{hint}"]


def scores_without_number(knobs: RewardKnobs, one: Answered) -> list[str]:
    """A line for each function of the user's that counts and fails of a completion, which has as
    long for it as its file has to load."""
    found = []
    for name, function in knobs.functions.items():
        if knobs.weights.get(name):
            patient = function.model_copy(update={"time_limit": START_LIMIT})
            process = FunctionProcess(patient)
            try:
                process.score(one._asdict())
            except ScoreError as error:
                found.append(
                    f"reward.functions.{name}: of {one.text[:200]!r}, an answer to "
                    f"{one.question[:80]!r}, it gives no number: {error}"
                )
            finally:
                process.close()
    return found
