"""AdvDistill (arXiv 2507.00054, eq. 5 to 9): weighted cross-entropy plus a penalty on wrong ones."""

from typing import Literal

from pydantic import Field

from fastdistill_ray.knobs import Knobs


class CrossEntropyKnobs(Knobs):
    reduction: Literal["mean", "sum", "const"] = Field(
        "mean", description="Over a completion's tokens: eq. 6; const divides by const_length."
    )
    const_length: int = Field(2048, gt=0, description="The divisor of reduction const.")
    on: Literal["all", "correct", "positive_advantage"] = Field(
        "all", description="Completions with cross-entropy; the others' weights go to these."
    )


class ContrastiveKnobs(Knobs):
    reduction: Literal["mean_group", "mean_incorrect", "sum"] = Field(
        "mean_group", description="Over a group's incorrect completions, eq. 8 (1/N by default)."
    )
    weighted: bool = Field(False, description="Multiply each penalty by its completion's weight.")
    incorrect_if: Literal["verdict", "negative_advantage", "low_reward"] = Field(
        "verdict", description="Which completions are penalised."
    )
    reward_threshold: float = Field(0.0, description="low_reward: penalised at or below this.")
    average: Literal["arithmetic", "geometric", "token"] = Field(
        "arithmetic", description="Mean token probability of eq. 9, or per-token unlikelihood."
    )


class AdvDistill(Knobs):
    kind: Literal["advdistill"] = "advdistill"
    tau: float = Field(0.5, gt=0, description="Temperature of the softmax over advantages, eq. 7.")
    lambda_: float = Field(0.5, ge=0, alias="lambda", description="Weight of the penalty, eq. 5.")
    p_max: float = Field(0.999, gt=0, lt=1, description="Clamp of the mean probability, eq. 8.")
    ce: CrossEntropyKnobs = CrossEntropyKnobs()
    contrastive: ContrastiveKnobs = ContrastiveKnobs()
    group_reduction: Literal["mean", "sum"] = Field(
        "mean", description="Over the groups of a step."
    )
