"""A model beside the student that does not train: what it says of the same target tokens.

Where its last hidden states are stored (`scoring/`), its head alone is there.

Sharded and computed as the student is, packed prompts included, so that a teacher costs each rank
its share of the weights and a forward pass.
Legend: K target tokens.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import load_config
from fastdistill_ray.objectives.contract import Measure, Needs
from fastdistill_ray.training.across import Aligned, compared
from fastdistill_ray.training.head import Readout, wide
from fastdistill_ray.training.knobs import LoraKnobs, TrainingKnobs
from fastdistill_ray.training.loading import empty_model, fill, fill_head
from fastdistill_ray.training.logit_map import logit_factor, softcap_of
from fastdistill_ray.training.operators import (
    divergence,
    divergence_of_parts,
    likeliest,
    of_likeliest,
    of_top,
)
from fastdistill_ray.training.others import mean_of_others
from fastdistill_ray.training.packing import Inputs
from fastdistill_ray.training.packing_check import check_small_copy, factor_of
from fastdistill_ray.training.sharding import hold_frozen, reshard, shard_head, shard_student
from fastdistill_ray.training.student import (
    CausalModel,
    Compared,
    empty_student,
    logprob_of,
    plain_attention,
    readout_of,
    with_attention,
)


class Frozen(CausalModel):
    seconds = 0.0  # that its forward passes took, where they are waited for

    def forward(
        self,
        inputs: Inputs,
        student: Readout,
        needs: Needs,
        aligned: Aligned | None = None,
        has_penalty_K: Tensor | None = None,
    ) -> Compared:
        """What an objective needs of it beside the student, differentiable by the student's
        tensors; `aligned`, where it needs something across tokenizers; `has_penalty_K`, where
        targets of completions with a penalty have a measure of their own.

        The weights are gathered only here, those of the head once more for the gradient.
        """
        start = time.perf_counter()
        with torch.no_grad():
            own = self.read(inputs, needs.wanted(1))
        self.seconds += time.perf_counter() - start
        found = self.at_head(
            own.hidden_KD,
            lambda readout: self._beside(readout, inputs, student, needs, aligned, has_penalty_K),
        )
        return found._replace(
            states=tuple(map(wide, own.states)), vectors=own.vectors, whole=own.whole
        )

    def _beside(
        self,
        own: Readout,
        inputs: Inputs,
        student: Readout,
        needs: Needs,
        aligned: Aligned | None,
        has_penalty_K: Tensor | None,
    ) -> Compared:
        """Of the heads of both."""
        start, found = time.perf_counter(), Compared()
        is_compared = needs.measure or needs.likeliest or needs.across
        if needs.frozen_logprob or not is_compared:
            with torch.no_grad():
                found = found._replace(frozen_logprob=logprob_of(own, inputs.labels))
        self.seconds += time.perf_counter() - start
        if needs.measure and needs.penalty_measure:
            assert has_penalty_K is not None
            measures = needs.measure, needs.penalty_measure
            parts = [mask_K.nonzero()[:, 0] for mask_K in (~has_penalty_K, has_penalty_K)]
            apart = divergence_of_parts(student, own, measures, parts)
            found = found._replace(divergence=apart)
        elif needs.measure:
            found = found._replace(divergence=divergence(student, own, needs.measure))
        if needs.across:
            assert aligned
            spans = compared(student, own, needs.across, aligned, inputs.labels)
            found = found._replace(spans=spans)
        if needs.likeliest:
            found = found._replace(likeliest=of_likeliest(student, own, needs.likeliest))
        if needs.others:
            others = mean_of_others(student, likeliest(own), needs.likeliest)
            found = found._replace(others=others)
        if needs.top:
            top = of_top(student, own, needs.top, inputs.labels)
            found = found._replace(top=top)
        return found


def build_frozen(
    folder: str, vocab_size: int, training: TrainingKnobs, device: torch.device
) -> Frozen:
    """Of a folder, sharded over the ranks; all ranks call this at once."""
    training = training.model_copy(
        update={
            "lora": LoraKnobs(),
            "activation_checkpointing": False,
            "activation_offload": False,
            "router_loss": False,
        }
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


class FrozenHead(nn.Module):
    """What makes a model's distributions of its last hidden states, [K, E]."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, vocab_size: int, factor: float, cap: float | None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.vocab_size, self.logit_factor, self.softcap = vocab_size, factor, cap

    def readout(self, hidden: Tensor) -> Readout:
        hidden = hidden.to(self.weight.dtype)
        return readout_of(hidden, self, self.vocab_size, self.logit_factor, self.softcap)

    def forward(self, hidden: Tensor, student: Readout, measure: Measure) -> Tensor:
        """[K], as `Frozen` with a measure."""
        return divergence(student, self.readout(hidden), measure)


def build_head(
    folder: str,
    vocab_size: int,
    device: torch.device,
    dtype: torch.dtype,
    shard: Callable[[FrozenHead], None] | None = None,
) -> FrozenHead:
    """The head alone of the model in a folder; sharded where `shard` does so."""
    config = load_config(folder)
    model, weights = with_attention(
        lambda name: empty_model(config, Path(folder), name),
        config.model_type,
        plain_attention(config),
    )
    own = cast(nn.Linear, model.get_output_embeddings())
    if len(own.weight) < vocab_size:
        raise UserError(f"the head of {folder} has {len(own.weight)} rows, of {vocab_size} asked")
    weight, bias = own.weight.detach().to(dtype), None
    if own.bias is not None:
        bias = own.bias.detach().to(dtype)
    head = FrozenHead(weight, bias, vocab_size, factor_of(folder), softcap_of(config))
    if shard:
        shard(head)
    fill_head(head, model, weights, device)
    return head


def build_sharded_head(
    folder: str, vocab_size: int, training: TrainingKnobs, device: torch.device
) -> FrozenHead:
    """As `build_head`, over the ranks; all of them call this at once."""
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    place = torch.device("cpu") if training.cpu_offload else device
    return build_head(
        folder, vocab_size, place, dtype, lambda head: shard_head(head, training, device)
    )
