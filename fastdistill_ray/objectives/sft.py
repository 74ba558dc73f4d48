"""SFT on the best completion of each group: the paper's baseline."""

from typing import Literal

from pydantic import Field

from fastdistill_ray.knobs import Knobs


class Sft(Knobs):
    kind: Literal["sft"] = "sft"
    best_of: Literal["reward", "first_correct"] = Field(
        "reward",
        description="The completion trained on; it must be correct. Ties of reward: the shortest.",
    )
    normalize: Literal["token", "sequence"] = Field(
        "token", description="Mean over the step's tokens, or over completions of token means."
    )
