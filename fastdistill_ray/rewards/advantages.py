"""Rewards of a group -> advantages -> weights, and which groups are kept. Pure numpy; no torch.

Legend: N completions of one group. arXiv 2507.00054 eq. 4 (advantage) and eq. 7 (weight): the paper
states a reward less the group's mean over its deviation, and a softmax over advantages. Its epsilon
and the kind of deviation are lost with eq. 4; 1e-4 (as in open-r1 and TRL) and the population's are
inferred.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fastdistill_ray.knobs import Knobs


class AdvantageKnobs(Knobs):
    eps: float = Field(default=1e-4, ge=0, description="Added to the standard deviation.")
    std_ddof: Literal[0, 1] = Field(
        default=0, description="Standard deviation of a group: 0 population, 1 sample."
    )
    min_std: float = Field(
        default=0.0,
        ge=0,
        description="A group whose deviation is below this gets advantages 0 (0: paper).",
    )
    scale: Literal["std", "none"] = Field(
        default="std",
        description="none: no division by the deviation (Dr. GRPO, arXiv 2503.20783).",
    )


def group_advantages(
    rewards: NDArray[np.float64] | list[float], knobs: AdvantageKnobs
) -> NDArray[np.float64]:
    """rewards[N] -> advantages[N], eq. 4 of arXiv 2507.00054; zeros when all rewards are equal."""
    values = np.asarray(rewards, dtype=np.float64)
    # Not by std == 0: the deviation of equal floats can be 1e-17.
    if len(values) < 2 or np.ptp(values) == 0:
        return np.zeros(len(values))
    deviation = values.std(ddof=knobs.std_ddof)
    if deviation < knobs.min_std:
        return np.zeros(len(values))
    centred = values - values.mean()
    return centred if knobs.scale == "none" else centred / (deviation + knobs.eps)


def softmax_weights(
    advantages: NDArray[np.float64] | list[float],
    tau: float,
    eligible: NDArray[np.bool_] | list[bool] | None = None,
) -> NDArray[np.float64]:
    """advantages[N] -> weights[N] summing to 1, eq. 7 of arXiv 2507.00054.

    Completions that are not eligible get 0 and the others share their weight; none eligible: all 0.
    """
    values = np.asarray(advantages, dtype=np.float64) / tau
    mask = np.ones(len(values), dtype=bool) if eligible is None else np.asarray(eligible, bool)
    weights = np.zeros(len(values))
    if mask.any():
        powers = np.exp(values[mask] - values[mask].max())
        weights[mask] = powers / powers.sum()
    return weights
