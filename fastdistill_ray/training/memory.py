"""What training takes of a rank's memory, counted before any weight is loaded.

The student's own forward runs on tensors without data, and what autograd would keep of it is
summed: no formula of an architecture. What an objective needs beside that is in `memory_beside.py`.
Numbers are bytes at the fullest moment, which is the end of a forward pass with the gradients of
earlier micro-batches at hand. Loading takes less: a rank reads its own shard, a few rows at a time.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from fastdistill_ray.models import NUM_EXPERTS, load_config
from fastdistill_ray.objectives.contract import NOTHING, Needs
from fastdistill_ray.training.attention import GROUPED, register_grouped
from fastdistill_ray.training.head import CHUNK_BYTES
from fastdistill_ray.training.knobs import LoraKnobs, OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.memory_beside import (
    Beside,
    across_bytes,
    distances,
    head_bytes,
    hidden_size,
    relation_bytes,
    states_bytes,
)
from fastdistill_ray.training.packing import (
    Inputs,
    TrainCompletion,
    TrainGroup,
    packed_batch,
    plain_batch,
)
from fastdistill_ray.training.relations import common_texts
from fastdistill_ray.training.router import trained_coefficient
from fastdistill_ray.training.student import (
    Student,
    decoder_blocks,
    own_ends,
    prepare_model,
    to_device,
    with_attention,
)

GIB = 2**30
MOMENTS = {"adamw": 8, "adamw8bit": 2}  # bytes of a parameter's two
RUNTIME = {"cpu": 700 * 2**20, "cuda": 900 * 2**20}  # libraries and, on CUDA, the context
# Temporaries of the backward pass and what the allocator keeps, as a share of the rest: measured
# with the allocators of training workers, 12 to 29 % on the CPU; 2 and 13 % on an H100.
SLACK = {"cpu": 0.2, "cuda": 0.16}
NO_NEEDS = Needs()
NUM_COMPLETIONS = 8  # of the group that is counted


class MemoryEstimate(NamedTuple):
    """Bytes of one rank, by purpose; `micro_batch_tokens` is what activations are counted for."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int  # copies of weights in compute precision, gradients before they are reduced
    activations: int
    logits: int  # of one chunk
    frozen: int  # the model beside the student: its share of the weights, and what is gathered
    slack: int
    runtime: int
    micro_batch_tokens: int

    @property
    def total(self) -> int:
        return sum(self) - self.micro_batch_tokens

    def parts(self) -> dict[str, int]:
        return {name: value for name, value in self._asdict().items() if "tokens" not in name}

    def describe(self) -> str:
        parts = ", ".join(f"{name} {size / GIB:.2g}" for name, size in self.parts().items())
        return (
            f"{self.total / GIB:.1f} GiB a rank at {self.micro_batch_tokens} tokens a micro-batch "
            f"({parts})"
        )


def estimate_memory(
    folder: str,
    training: TrainingKnobs,
    optimizer: OptimizerKnobs,
    *,
    workers: int,
    device: str,
    frozen: str = "",
    needs: Needs = NO_NEEDS,
) -> MemoryEstimate:
    """What a rank of `workers` takes on "cpu" or "cuda", with what the objective `needs` of the
    model of the folder `frozen` beside the student, if any; of the folders only config.json is
    read."""
    bridged = hidden_size(frozen) if needs.bridge else 0
    with torch.device("meta"):
        counts = _count(_student(folder, training, training.lora, bridged))
    width = 2 if training.precision == "bf16" else 4
    student, activations = _activations(folder, training, frozen, needs, counts.num_blocks)
    tokens = training.micro_batch_tokens
    chunk = min(CHUNK_BYTES[device], 4 * tokens * student.vocab_size)
    logits = chunk + chunk // 2  # in float32 and once more in bf16; on CUDA three times in bf16
    if needs.relations:
        logits = max(logits, relation_bytes(needs, training, folder, frozen))
    if needs.across:
        logits = max(logits, across_bytes(needs.across, training, folder, frozen, device))
    shards = workers // training.replicas
    is_streamed = device == "cuda" and shards > 1
    is_base_streamed = is_streamed or training.lora.rank > 0
    gathered = width * (counts.streamed if is_base_streamed else counts.all)
    if not is_streamed and workers > 1:
        gathered += 4 * counts.trained  # reduced once a step
    # Gradients are reduced in the backward pass, those of a head of its own first, all others when
    # activations are freed: only what exceeds these adds to the peak.
    reduced = (width + 8) * max(counts.rest, counts.block, counts.embedding)
    is_head_first = is_streamed and training.lora.rank == 0
    first = (width + 4) * counts.head if is_head_first else 0
    gathered += max(0, first - logits, reduced - activations - logits)
    # Weights, gradients and moments rest in host memory with cpu_offload.
    on_device = 0 if training.cpu_offload else 1
    weights, trained = on_device * counts.all // shards, on_device * counts.trained // shards
    moments = MOMENTS[optimizer.kind]
    held = 4 * trained + width * (weights - trained)  # a frozen base as it computes
    beside = _frozen_bytes(frozen, training, shards, is_streamed, needs) if frozen else 0
    counted = held + (4 + moments) * trained + gathered + activations + logits + beside
    return MemoryEstimate(
        weights=held,
        gradients=4 * trained,
        optimizer=moments * trained,
        gathered=gathered,
        activations=activations,
        logits=logits,
        frozen=beside,
        slack=int(SLACK[device] * counted),
        runtime=RUNTIME[device],
        micro_batch_tokens=tokens,
    )


def _frozen_bytes(
    folder: str, training: TrainingKnobs, shards: int, is_streamed: bool, needs: Needs
) -> int:
    """Of what a block of it takes in its forward pass, none is more than what the student's blocks
    keep."""
    width = 2 if training.precision == "bf16" else 4
    if needs.signal:
        return head_bytes(folder, training, shards, width)
    with torch.device("meta"):
        counts = _count(_student(folder, training, LoraKnobs()))
    weights = 0 if training.cpu_offload else counts.all // shards
    kept = states_bytes(folder, training, needs, width)
    if is_streamed:
        return kept + width * (weights + counts.streamed)
    return kept + width * (weights + (counts.all if shards > 1 else 0))


def _activations(
    folder: str, training: TrainingKnobs, frozen: str, needs: Needs, num_blocks: int
) -> tuple[Student, int]:
    """A student without data or adapter, which adds next to nothing, and what it keeps."""
    text, halves, knobs = load_config(folder).get_text_config(), 1, training
    if training.precision == "fp32" and any(getattr(text, name, None) for name in NUM_EXPERTS):
        # Without data torch knows the experts' products in bf16 alone: half as many bytes.
        knobs, halves = training.model_copy(update={"precision": "bf16"}), 2
    bridged = hidden_size(frozen) if needs.bridge else 0
    with FakeTensorMode(allow_non_fake_inputs=True):
        student = _student(folder, knobs, LoraKnobs(), bridged)
        plain = whole = _saved_bytes(student, knobs, halves)
        if needs.taps or needs.relations:
            whole = _saved_bytes(student, knobs, halves, needs, frozen)
    if not training.activation_checkpointing:
        return student, whole
    # Of each pass every block's input, one block computed again, and what is compared.
    passes, width = 1 + needs.fed, 2 if training.precision == "bf16" else 4
    num_inputs = 1 if training.activation_offload else num_blocks
    inputs = num_inputs * training.micro_batch_tokens * text.hidden_size * width
    return student, passes * inputs + plain // num_blocks + max(0, whole - passes * plain)


class _Counts(NamedTuple):
    """Parameters, of a head that is the embedding among the rest."""

    all: int
    trained: int
    block: int  # the largest
    embedding: int  # 0: of the rest
    head: int  # 0: of the rest
    rest: int
    num_blocks: int

    @property
    def streamed(self) -> int:
        """Gathered at once: what is computed with, the next, and the rest."""
        return self.rest + self.block + max(self.block, self.embedding, self.head)


def _count(student: Student) -> _Counts:
    blocks, ends = list(map(_num_numbers, decoder_blocks(student))), (0, 0)
    if own := own_ends(student):
        ends = _num_numbers(own[0]), _num_numbers(own[1])
    total = _num_numbers(student)
    trained = sum(weight.numel() for weight in student.parameters() if weight.requires_grad)
    rest = total - sum(blocks) - sum(ends)
    return _Counts(total, trained, max(blocks), *ends, rest, len(blocks))


def _num_numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _student(folder: str, training: TrainingKnobs, lora: LoraKnobs, bridged: int = 0) -> Student:
    """Without data, in the precision it computes in, and with a bridge to that width, if any."""
    register_grouped()
    config = load_config(folder)
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    model = with_attention(
        lambda name: AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            attn_implementation=name,
        ),
        config.model_type,
        GROUPED if training.shared_prompt else "sdpa",
    )
    student = Student(prepare_model(model, lora), config.get_text_config().vocab_size)
    student.router_coefficient = trained_coefficient(config) if training.router_loss else 0.0
    if bridged:
        own = config.get_text_config().hidden_size
        student.bridge = nn.Linear(own, bridged, bias=False, dtype=dtype)
    return student


def _saved_bytes(
    student: Student,
    training: TrainingKnobs,
    halves: int,
    needs: Needs = NO_NEEDS,
    frozen: str = "",
) -> int:
    """What autograd keeps of a forward pass over one micro-batch, weights apart, and of comparing
    its blocks with those of the model in the folder `frozen`; what is in bf16 counts `halves`
    times."""
    weights = {weight.untyped_storage()._cdata for weight in student.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage.nbytes() * (
                halves if tensor.dtype == torch.bfloat16 else 1
            )
        return tensor

    made = _micro_batch(training)
    inputs = to_device(made, torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compare = None
        if frozen:
            compare = Beside(student, inputs, common_texts(made, made), needs, frozen)
        outputs = student(inputs, compare, needs.wanted(0) if frozen else NOTHING)
        kept = outputs, distances(outputs.taps)  # alive until the bytes are summed
    del kept
    return sum(saved.values())


def _micro_batch(training: TrainingKnobs) -> Inputs:
    """A full one: a group whose prompt is as long as each of its completions."""
    length = max(1, training.micro_batch_tokens // (NUM_COMPLETIONS + 1))
    if not training.shared_prompt:
        length = max(1, training.micro_batch_tokens // (2 * NUM_COMPLETIONS))
    ids = np.zeros(length, dtype=np.int64)
    group = TrainGroup("", ids, [TrainCompletion(ids, 1.0, 0.0)] * NUM_COMPLETIONS)
    if training.shared_prompt:
        return packed_batch([group], 1).inputs
    return plain_batch([group], training.mask_prompt).inputs


def advice(estimate: MemoryEstimate, available: float, device: str) -> str:
    """Which knob to turn when that much memory is too little."""
    moving = estimate.activations + estimate.logits
    left = available - (estimate.total - moving)
    if left > moving / 8:
        tokens = int(estimate.micro_batch_tokens * left / moving / 64) * 64
        return (
            f"lower training.micro_batch_tokens to {tokens}, or set "
            "training.activation_checkpointing: true, on a GPU training.activation_offload too"
        )
    if device == "cpu":
        return "set training.lora.rank, or give pools.student nodes with more memory"
    return (
        "raise pools.student.workers (weights are shared among them and training.replicas), or set "
        "training.cpu_offload: true, optimizer.kind: adamw8bit or training.lora.rank"
    )
