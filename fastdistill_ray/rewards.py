"""Named scores of a completion and their weighted sum, the reward. Pure; no torch, no Ray.

arXiv 2507.00054: R_i = 2 r_cos + 1 r_fmt (eq. 2), the cosine of the length (eq. 3).
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.verifiers import VerifierKnobs

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
    correct_rL: float = Field(description="Score of a correct completion at max_length.")  # noqa: N815
    wrong_r0: float = Field(description="Score of a wrong completion of length 0.")
    wrong_rL: float = Field(description="Score of a wrong completion at max_length.")  # noqa: N815
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
