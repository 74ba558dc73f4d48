"""A student's weights over ranks: FSDP2, precision, recomputation, compilation and offload."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from fastdistill_ray.config import TrainingKnobs
from fastdistill_ray.student import Student


def shard_student(student: Student, training: TrainingKnobs, device: torch.device) -> None:
    """FSDP2 per decoder block, then the rest; weights and reductions stay float32."""
    if training.activation_checkpointing:
        student.model.gradient_checkpointing_enable({"use_reentrant": False})
    world_size = dist.get_world_size()
    offload = OffloadPolicy()
    if training.cpu_offload:
        offload = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if training.precision == "bf16" else None,
        reduce_dtype=torch.float32,
    )
    shard = partial(
        fully_shard,
        mesh=init_device_mesh(device.type, (world_size,)),
        mp_policy=policy,
        offload_policy=offload,
        reshard_after_forward=world_size > 1,
    )
    kinds = set(student.model._no_split_modules)
    blocks = [module for module in student.modules() if type(module).__name__ in kinds]
    if training.compile and training.activation_checkpointing:
        # Lengths vary: recomputing must find the compiled graph that the forward used.
        torch._C._dynamo.eval_frame._set_lru_cache(False)
    for block in blocks:
        if training.compile:  # what FSDP does around it stays outside
            block.forward = torch.compile(block.forward, dynamic=True)
        shard(block)
    shard(student)
    if world_size == 1:
        for module in (*blocks, student):
            module.set_custom_reduce_scatter(InPlace())
    elif device.type == "cuda":
        prefetch_next(blocks)
    register_fsdp_forward_method(student, "reference_logprob")


class InPlace:
    """In a world of one FSDP copies its input to its output: here both are the same memory.

    FSDP asks for the input's memory, then for the output's.
    """

    taken: torch.Tensor | None = None

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        buffer, self.taken = self.taken, None
        if buffer is None:
            buffer = self.taken = torch.empty(*size, dtype=dtype, device=device)
        return buffer

    def __call__(self, *_: Any) -> None:
        raise AssertionError("a world of one reduces nothing")


def prefetch_next(blocks: list[FSDPModule]) -> None:
    """A block asks for its successor's weights before it computes, in both directions."""
    for block, successor in pairwise(blocks):
        block.set_modules_to_forward_prefetch([successor])
        successor.set_modules_to_backward_prefetch([block])
