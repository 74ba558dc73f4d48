"""Named scores of a completion and their weighted sum, the reward. Pure; no torch, no Ray.

arXiv 2507.00054: R_i = 2 r_cos + 1 r_fmt (eq. 2), the cosine of the length (eq. 3).
"""

import math
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.verifiers import VerifierKnobs
from fastdistill_ray.verifiers.extraction import Tag, is_blank, scan

SCORES = ("cosine", "format")  # the names of score_completion
COSINE_PRESETS: dict[str, dict[str, float]] = {
    "open_rs": {"correct_r0": 1.0, "correct_rL": 0.5, "wrong_r0": 0.0, "wrong_rL": -0.5},
    "open_r1_fn": {"correct_r0": 1.0, "correct_rL": 0.5, "wrong_r0": -1.0, "wrong_rL": -0.5},
    "yeo": {
        "correct_r0": 2.0,
        "correct_rL": 1.0,
        "wrong_r0": -10.0,
        "wrong_rL": 0.0,
        "exceed_value": -10.0,
    },
}


class CosineKnobs(Knobs):
    """Length-aware correctness, eq. 3 of arXiv 2507.00054 (CosFn of arXiv 2502.03373, App. C.1)."""

    preset: Literal["open_rs", "open_r1_fn", "yeo"] = Field(
        "open_rs", description="Where the boundary values below come from when not given."
    )
    correct_r0: float = Field(description="Score of a correct completion of length 0.")
    correct_rL: float = Field(description="Score of a correct completion at max_length.")
    wrong_r0: float = Field(description="Score of a wrong completion of length 0.")
    wrong_rL: float = Field(description="Score of a wrong completion at max_length.")
    max_length: int = Field(2048, gt=0, description="L_max; lengths are capped there first.")
    shape: Literal["cosine", "linear"] = Field("cosine", description="Between r0 and rL.")
    exceed_value: float | None = Field(
        None, description="Score of a completion at or over max_length; none: the cap's value."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = values.get("preset", "open_rs")
        return {**COSINE_PRESETS.get(preset, {}), **values}


class FormatKnobs(Knobs):
    """One <think>..</think>, then one <answer>..</answer>, and a box after </think>."""

    mode: Literal["strict", "lenient", "parts"] = Field(
        "strict",
        description="strict: nothing but white space around the two blocks; lenient: other text "
        "may stand around them; parts: one third for each of think, answer, box.",
    )


class RewardKnobs(Knobs):
    cosine: CosineKnobs = CosineKnobs()
    format: FormatKnobs = FormatKnobs()
    weights: dict[str, float] = Field(
        {"cosine": 2.0, "format": 1.0}, description="Score name -> weight; eq. 2."
    )
    length_unit: Literal["tokens", "characters"] = Field(
        "tokens", description="What a completion's length is counted in (the teacher's tokens)."
    )
    verifier: VerifierKnobs = VerifierKnobs()


class FormatCheck(NamedTuple):
    """Parts of the template a completion keeps; `whole` is all of them as the mode demands."""

    think: bool
    answer: bool
    box: bool
    whole: bool


def check_format(text: str, mode: Literal["strict", "lenient", "parts"]) -> FormatCheck:
    """One <think> block, then one <answer> block, and a filled box after </think>."""
    found = scan(text)
    think = [tag for tag in found.tags if tag.name == "think"]
    answer = [tag for tag in found.tags if tag.name == "answer"]
    has_think, has_answer = _is_one_block(think), _is_one_block(answer)
    if has_think and has_answer and answer[0].start < think[1].end:
        has_answer = False
    reasoning_end = max((tag.end for tag in think if tag.is_closing), default=0)
    has_box = any(
        box.start >= reasoning_end and not is_blank(text[box.start : box.end])
        for box in found.boxes
    )
    is_whole = has_think and has_answer and has_box
    if is_whole and mode == "strict":
        outside = (
            text[: think[0].start] + text[think[1].end : answer[0].start] + text[answer[1].end :]
        )
        is_whole = not outside.strip()
    return FormatCheck(has_think, has_answer, has_box, is_whole)


def _is_one_block(tags: list[Tag]) -> bool:
    return [tag.is_closing for tag in tags] == [False, True]


def format_score(text: str, knobs: FormatKnobs) -> float:
    """1 or 0; with mode parts a third for each part."""
    check = check_format(text, knobs.mode)
    if knobs.mode == "parts":
        return (check.think + check.answer + check.box) / 3
    return float(check.whole)


def cosine_score(length: int, is_correct: bool, knobs: CosineKnobs) -> float:
    """Eq. 3 of arXiv 2507.00054; the length is capped first, or the cosine would rise again."""
    if length >= knobs.max_length and knobs.exceed_value is not None:
        return knobs.exceed_value
    progress = min(length, knobs.max_length) / knobs.max_length
    at_zero, at_cap = (
        (knobs.correct_r0, knobs.correct_rL) if is_correct else (knobs.wrong_r0, knobs.wrong_rL)
    )
    if knobs.shape == "linear":
        return at_cap + (at_zero - at_cap) * (1 - progress)
    return at_cap + 0.5 * (at_zero - at_cap) * (1 + math.cos(math.pi * progress))


def score_completion(
    text: str, num_tokens: int, is_correct: bool, knobs: RewardKnobs
) -> dict[str, float]:
    """Raw scores by name, before the weights: cosine, format."""
    length = num_tokens if knobs.length_unit == "tokens" else len(text)
    return {
        "cosine": cosine_score(length, is_correct, knobs.cosine),
        "format": format_score(text, knobs.format),
    }


def weighted_reward(scores: dict[str, float], weights: dict[str, float]) -> float:
    """Eq. 2 of arXiv 2507.00054; a score without a weight does not count."""
    return sum(weight * scores[name] for name, weight in weights.items())
