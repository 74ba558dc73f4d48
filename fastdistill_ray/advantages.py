"""Rewards of a group -> advantages -> weights, and which groups are kept. Pure numpy; no torch.

Legend: N completions of one group. arXiv 2507.00054 eq. 4 (advantage) and eq. 7 (weight).
"""

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fastdistill_ray.knobs import Knobs


class AdvantageKnobs(Knobs):
    eps: float = Field(1e-4, ge=0, description="Added to the standard deviation.")
    std_ddof: Literal[0, 1] = Field(0, description="0: population, 1: sample deviation.")
    min_std: float = Field(
        0.0, ge=0, description="A group whose deviation is below this gets advantages 0 (0: paper)."
    )
    scale: Literal["std", "none"] = Field(
        "std", description="none: no division by the deviation (Dr. GRPO, arXiv 2503.20783)."
    )


class SelectionKnobs(Knobs):
    min_correct: int = Field(1, ge=0, description="Fewest correct completions of a kept group.")
    max_correct: int | None = Field(None, description="Most correct ones; none: all may be.")
    drop_zero_variance: bool = Field(False, description="Drop groups whose rewards are all equal.")
    min_size: int = Field(2, ge=1, description="Fewest completions of a kept group.")
    dedup: bool = Field(False, description="Drop repeated texts inside a group, keeping the first.")
    group_size: int | None = Field(
        None, ge=1, description="Use this many completions of each group; none: all."
    )
    group_select: Literal["random", "first"] = Field(
        "random", description="Which ones when group_size is set: seeded random, or the first."
    )
    seed: int = Field(0, description="Of the random choice.")


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


def select_completions(texts: list[str], knobs: SelectionKnobs, problem_id: str) -> list[int]:
    """Positions of the completions a group keeps, ascending; rewards are relative to these."""
    kept = list(range(len(texts)))
    if knobs.dedup:
        kept = sorted({text: i for i, text in reversed(list(enumerate(texts)))}.values())
    if knobs.group_size is None or len(kept) <= knobs.group_size:
        return kept
    if knobs.group_select == "first":
        return kept[: knobs.group_size]
    # Not hash(): it differs between processes.
    digest = hashlib.sha256(f"{knobs.seed}:{problem_id}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return sorted(generator.choice(kept, knobs.group_size, replace=False).tolist())


def drop_reason(
    is_correct: list[bool], rewards: NDArray[np.float64] | list[float], knobs: SelectionKnobs
) -> str:
    """Why the group is not trained on: "" or one of four words that reports count."""
    num_correct = sum(is_correct)
    if len(is_correct) < knobs.min_size:
        return "too_few_completions"
    if num_correct < knobs.min_correct:
        return "too_few_correct"
    if knobs.max_correct is not None and num_correct > knobs.max_correct:
        return "too_many_correct"
    if knobs.drop_zero_variance and np.ptp(np.asarray(rewards, dtype=np.float64)) == 0:
        return "zero_variance"
    return ""
