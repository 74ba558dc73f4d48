"""Scores of a completion's length: the cosine, which joins it with correctness, and a penalty.

Of the cosine (eq. 3) the paper, arXiv 2507.00054, states that it depends on correctness and on the
length in tokens, capped at 2048, and that long wrong answers are penalised. Its four boundary
values and its form are lost with the equation. Inferred: the form of CosFn (arXiv 2502.03373), and
the values of `open_rs`, the one preset of these that makes a longer wrong answer worse.
"""

import math
from typing import Any, Literal, Self

from pydantic import Field, model_serializer, model_validator
from pydantic_core.core_schema import SerializerFunctionWrapHandler

from fastdistill_ray.knobs import Knobs

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
PRESET_FIELDS = ("correct_r0", "correct_rL", "wrong_r0", "wrong_rL", "exceed_value")


class CosineKnobs(Knobs):
    """Length-aware correctness, eq. 3 of arXiv 2507.00054 (CosFn of arXiv 2502.03373, App. C.1)."""

    preset: Literal["open_rs", "open_r1_fn", "yeo"] = Field(
        default="open_rs", description="Where the boundary values below come from when not given."
    )
    correct_r0: float = Field(description="Score of a correct completion of length 0.")
    correct_rL: float = Field(description="Score of a correct completion at max_length.")
    wrong_r0: float = Field(description="Score of a wrong completion of length 0.")
    wrong_rL: float = Field(description="Score of a wrong completion at max_length.")
    max_length: int = Field(
        default=2048, gt=0, description="L_max; lengths are capped there first."
    )
    shape: Literal["cosine", "linear"] = Field(
        default="cosine", description="How the score moves from r0 to rL with length."
    )
    exceed_value: float | None = Field(
        default=None,
        description="Score of a completion at or over max_length; none: the cap's value.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = values.get("preset", "open_rs")
        return {**COSINE_PRESETS.get(preset, {}), **values}

    @model_serializer(mode="wrap")
    def _leave_out_preset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Or changing the preset of a written recipe would change nothing."""
        preset = COSINE_PRESETS[self.preset]
        return {
            name: value
            for name, value in handler(self).items()
            if name not in PRESET_FIELDS or value != preset.get(name)
        }


class LengthKnobs(Knobs):
    """A penalty of length alone (the soft overlong punishment of arXiv 2503.14476, eq. 13)."""

    max_length: int = Field(default=2048, gt=0, description="Length from which on the score is -1.")
    margin: int = Field(
        default=2048,
        gt=0,
        description="Up to max_length - margin the score is 0; then it falls linearly.",
    )

    @model_validator(mode="after")
    def _check_margin(self) -> Self:
        if self.margin > self.max_length:
            raise ValueError(f"margin: {self.margin} is more than max_length = {self.max_length}")
        return self


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


def length_score(length: int, knobs: LengthKnobs) -> float:
    """0 for a short completion, down to -1 at max_length and beyond."""
    excess = length - (knobs.max_length - knobs.margin)
    return 0.0 - min(max(excess / knobs.margin, 0.0), 1.0)
