"""Rewards of a group -> advantages -> weights, and which groups are kept. Pure numpy; no torch.

Legend: N completions of one group. arXiv 2507.00054 eq. 4 (advantage) and eq. 7 (weight).
"""

from typing import Literal

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
