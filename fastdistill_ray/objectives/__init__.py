"""What the student minimises. Tensors come in through arguments: no module here imports torch.

An objective takes per-token log-probabilities and returns sums with named denominators
(`contract.Term`); dividing by the global denominator happens once, in the training loop.
"""

from typing import Annotated

from pydantic import Field

from fastdistill_ray.objectives.advdistill import AdvDistill
from fastdistill_ray.objectives.sft import Sft

Objective = Annotated[AdvDistill | Sft, Field(discriminator="kind")]
