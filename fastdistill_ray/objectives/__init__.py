"""What the student minimises. Tensors come in through arguments: no module here imports torch.

An objective says what it needs (`contract.Needs`), takes what the models say of each token and
returns sums with named denominators (`contract.Term`); dividing by the global denominator happens
once, in the training loop. All that reports, errors and plots call an objective stands on its
class; OBJECTIVES finds it by its kind.
"""

from typing import Annotated, get_args

from pydantic import Field

from fastdistill_ray.objectives.across import ByteKl, MultiLevelOt, Uld
from fastdistill_ray.objectives.advdistill import AdvDistill
from fastdistill_ray.objectives.born_again import BornAgain
from fastdistill_ray.objectives.distillm2 import DistiLlm2
from fastdistill_ray.objectives.distribution import (
    ForwardKl,
    Jsd,
    ReverseKl,
    SkewKl,
    SkewReverseKl,
    Tvd,
)
from fastdistill_ray.objectives.dpkd import Dpkd
from fastdistill_ray.objectives.dpo import Dpo
from fastdistill_ray.objectives.hidden import DistilBert, Pkd
from fastdistill_ray.objectives.lit import Lit
from fastdistill_ray.objectives.opd import Opd
from fastdistill_ray.objectives.projected import FitNets, TinyBert
from fastdistill_ray.objectives.relations import MiniLm, MiniLmV2
from fastdistill_ray.objectives.sft import Sft
from fastdistill_ray.objectives.sparse import SampledKl, TopkKl
from fastdistill_ray.objectives.step_by_step import StepByStep

FromTeacher = ForwardKl | ReverseKl | SkewKl | SkewReverseKl | Jsd | Tvd | Dpkd | BornAgain
FromInside = Pkd | DistilBert | FitNets | TinyBert | MiniLm | MiniLmV2 | Lit
FromSignals = TopkKl | SampledKl
FromOthers = Uld | MultiLevelOt | ByteKl
FromRounds = Opd | DistiLlm2
AnyObjective = (
    AdvDistill
    | Sft
    | StepByStep
    | FromTeacher
    | FromInside
    | FromSignals
    | FromOthers
    | Dpo
    | FromRounds
)
Objective = Annotated[AnyObjective, Field(discriminator="kind")]
OBJECTIVES: dict[str, type[AnyObjective]] = {
    objective.model_fields["kind"].default: objective for objective in get_args(AnyObjective)
}
