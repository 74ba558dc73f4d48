"""A student's weights over ranks: FSDP2, precision, recomputation, compilation and offload."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from types import MethodType
from typing import Any, cast

import torch
import torch.distributed as dist
from torch._C._dynamo import eval_frame
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

# No public way to choose how gradients are added up in the pinned torch 2.13.
from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam

from fastdistill_ray.training.knobs import TrainingKnobs
from fastdistill_ray.training.student import CausalModel, decoder_blocks, own_ends

ADDED_AT_ONCE = 2**20  # numbers
RECOMPILE_LIMIT = 64


def hold_frozen(student: CausalModel, training: TrainingKnobs) -> None:
    """An adapter's base in the precision of compute, to which it would be rounded at every use."""
    if training.precision == "bf16":
        for parameter in student.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()


def shard_student(student: CausalModel, training: TrainingKnobs, device: torch.device) -> None:
    """FSDP2 per decoder block, embedding and head, then the rest; trained weights and reductions
    stay float32. A head that is the embedding is of the rest."""
    if training.activation_checkpointing:
        student.model.gradient_checkpointing_enable({"use_reentrant": False})
    student.saves_on_host = training.activation_offload
    shard = _shard_by(training, device)
    blocks = decoder_blocks(student)
    for block in blocks:
        if training.compile:  # what FSDP does around it stays outside
            block.forward = torch.compile(block.forward)
        shard(block)
    if ends := own_ends(student):
        embedding, head = ends
        shard(embedding)
        shard(head)
        register_fsdp_forward_method(head, "give")
        cast(FSDPModule, embedding).set_unshard_in_backward(False)  # its ids are all it takes
        blocks = [embedding, *blocks, head]
    shard(student)
    if device.type == "cpu":
        add_gradients_in_slices(student)
    if device.type == "cuda" and num_shards(training) > 1:
        prefetch_next(cast(list[FSDPModule], blocks))  # as fully_shard has made them
    register_fsdp_forward_method(student, "logits_of_head")


def shard_head(head: torch.nn.Module, training: TrainingKnobs, device: torch.device) -> None:
    """One of a model whose other weights are not there; gathered in its forward alone."""
    _shard_by(training, device)(head)


def _shard_by(training: TrainingKnobs, device: torch.device) -> Callable[[torch.nn.Module], Any]:
    offload = OffloadPolicy()
    if training.cpu_offload:
        offload = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if training.precision == "bf16" else None,
        reduce_dtype=torch.float32,
    )
    return partial(
        fully_shard,
        mesh=_mesh(training.replicas, device),
        mp_policy=policy,
        offload_policy=offload,
        reshard_after_forward=training.lora.rank > 0 or num_shards(training) > 1,
    )


def num_shards(training: TrainingKnobs) -> int:
    return dist.get_world_size() // training.replicas


def reshards_every_batch(training: TrainingKnobs, device: torch.device) -> bool:
    """Whether no rank holds a whole model between two micro-batches of a step: of several GPUs, and
    of an adapter's base, of which a second copy would be all that is saved by not training it."""
    return training.lora.rank > 0 or (device.type == "cuda" and dist.get_world_size() > 1)


def _mesh(replicas: int, device: torch.device) -> DeviceMesh:
    """Neighbouring ranks, which nodes share, hold one copy."""
    world_size = dist.get_world_size()
    if replicas == 1:
        return init_device_mesh(device.type, (world_size,))
    sizes, names = (replicas, world_size // replicas), ("replicas", "shards")
    return init_device_mesh(device.type, sizes, mesh_dim_names=names)


@contextlib.contextmanager
def compilation(training: TrainingKnobs) -> Iterator[None]:
    """torch.compile as training needs it, for all of this process until the block ends."""
    # One block function is compiled up to 2 (window or not) x 3 (check, train, validate) x 2 (fixed
    # or dynamic length) times; dynamo's default limit of 8 would silently run the ninth eagerly.
    with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
        if not (training.compile and training.activation_checkpointing):
            yield
            return
        # Lengths vary: recomputing must find the compiled graph that the forward used.
        eval_frame._set_lru_cache(False)  # pyright: ignore[reportAttributeAccessIssue]  # no stub
        try:
            yield
        finally:
            # torch's default; its stubs lack the name.
            eval_frame._set_lru_cache(True)  # pyright: ignore[reportAttributeAccessIssue]


def prefetch_next(blocks: list[FSDPModule]) -> None:
    """Each asks for its successor's weights before it computes, in both directions."""
    for block, successor in pairwise(blocks):
        block.set_modules_to_forward_prefetch([successor])
        successor.set_modules_to_backward_prefetch([block])


def reshard(student: torch.nn.Module) -> None:
    """No gathered weights stay behind a forward without a backward."""
    for module in student.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def add_gradients_in_slices(student: CausalModel) -> None:
    """Replaces how the sharded weights of this student add up gradients; no other's."""
    for module in student.modules():
        if isinstance(module, FSDPModule):
            for group in module._get_fsdp_state()._fsdp_param_groups:
                for weight in group.fsdp_params:
                    weight.accumulate_unsharded_grad_if_needed = MethodType(add_in_slices, weight)


def add_in_slices(parameter: FSDPParam) -> None:
    """The gradient of a micro-batch to those before it, as FSDP does, on the CPU.

    To add bfloat16 to float32 torch first copies all of it to float32 there: of a head with a
    vocabulary of 152k, a third of a gigabyte at the fullest moment of a step.
    """
    total = parameter.unsharded_accumulated_grad
    if total is None or parameter.unsharded_param.grad is None:
        return
    gradient = parameter.unsharded_param.grad
    rows = max(1, ADDED_AT_ONCE * len(total) // total.numel())
    for part, added in zip(total.split(rows), gradient.split(rows), strict=True):
        part += added
    parameter.unsharded_param.grad = None
