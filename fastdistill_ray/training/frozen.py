"""A model beside the student that does not train: what it says of the same target tokens.

Sharded and computed as the student is, packed prompts included, so that a teacher costs each rank
its share of the weights and a forward pass.
Legend: K target tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdistill_ray.errors import UserError
from fastdistill_ray.objectives.contract import Measure
from fastdistill_ray.training.head import Readout
from fastdistill_ray.training.knobs import LoraKnobs, TrainingKnobs
from fastdistill_ray.training.loading import fill
from fastdistill_ray.training.logit_map import logit_factor
from fastdistill_ray.training.operators import divergence
from fastdistill_ray.training.packing import Inputs
from fastdistill_ray.training.packing_check import check_small_copy
from fastdistill_ray.training.sharding import hold_frozen, reshard, shard_student
from fastdistill_ray.training.student import (
    CausalModel,
    Compared,
    empty_student,
    logprob_of,
)


class Frozen(CausalModel):
    def forward(
        self,
        inputs: Inputs,
        student: Readout | None = None,
        measure: Measure | None = None,
        blocks: Sequence[int] = (),
    ) -> Tensor | Compared:
        """[K], its log-probabilities of the labels; with a measure, the divergence between its
        distributions and the student's, differentiable by the student's tensors, and its `blocks`'
        outputs.

        The head is gathered only here, and once more for the gradient.
        """
        with torch.no_grad():
            own = self.read(inputs, blocks)
            if measure is None:
                return logprob_of(own.readout, inputs.labels)
        assert student is not None
        return Compared(divergence(student, own.readout, measure), own.states)


def build_frozen(
    folder: str, vocab_size: int, training: TrainingKnobs, device: torch.device
) -> Frozen:
    """Of a folder, sharded over the ranks; all ranks call this at once."""
    training = training.model_copy(
        update={"lora": LoraKnobs(), "activation_checkpointing": False, "router_loss": False}
    )
    if training.shared_prompt:
        check_small_copy(folder, device)
    student, weights = empty_student(
        folder,
        vocab_size=vocab_size,
        device=device,
        shared_prompt=training.shared_prompt,
        trains_router=False,
        lora=training.lora,
    )
    if student.vocab_size != vocab_size:
        raise UserError(
            f"teacher.model: its head has {student.vocab_size} rows, the student uses {vocab_size}"
        )
    frozen = Frozen(student.model, vocab_size).requires_grad_(False).eval()
    hold_frozen(frozen, training)
    shard_student(frozen, training, device)
    fill(frozen, weights, torch.device("cpu") if training.cpu_offload else device)
    frozen.logit_factor = logit_factor(frozen, device)
    reshard(frozen)
    return frozen
