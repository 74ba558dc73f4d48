"""A causal language model -> log-probabilities of target tokens; logits exist one chunk at a time.

Backbone and head run inside one module's forward, so that FSDP2 gathers the head's weight and
tied weights stay one parameter. Legend: R rows of L tokens, K target tokens, D hidden, V
vocabulary of the tokenizer (a model's head is often padded beyond it).
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fastdistill_ray.attention import GROUPED, attention_arguments, row_multiple, short_window
from fastdistill_ray.config import LoraKnobs
from fastdistill_ray.objectives.contract import Outputs
from fastdistill_ray.packing import (
    PADDING,
    Inputs,
    TrainCompletion,
    TrainGroup,
    packed_batch,
    plain_batch,
)

# Logits of one chunk in float32. torch's linear_cross_entropy took 13 s where the chunks took 0.3,
# and returns bf16.
CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
MIN_ROWS = 1024  # a chunk is no wider than for so many: a product copies the weights it reads


class Student(nn.Module):
    def __init__(self, model: PreTrainedModel, vocab_size: int, adapter_scale: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.vocab_size = vocab_size
        self.adapter_scale = adapter_scale  # LoRA's alpha / rank; 0: no adapter

    def forward(self, inputs: Inputs) -> Outputs:
        hidden = self.model.get_decoder()(
            input_ids=inputs.input_ids,
            position_ids=inputs.position_ids,
            use_cache=False,
            **attention_arguments(inputs, self.model.config),
        ).last_hidden_state
        head = self.model.get_output_embeddings()
        weight, bias = head.weight, head.bias
        if len(weight) > self.vocab_size:  # the slice's backward copies the gradient once more
            weight = weight[: self.vocab_size]
            bias = None if bias is None else bias[: self.vocab_size]
        softcap = getattr(self.model.config, "final_logit_softcapping", None)
        # Unlike that of indexing, its backward adds in the same order every time.
        hidden = nn.functional.embedding(inputs.sources, hidden.flatten(0, 1))
        return Outputs(ChunkedLogprob.apply(hidden, weight, bias, inputs.labels, softcap))

    def reference_logprob(self, inputs: Inputs) -> Tensor:
        """The same [K] from the model's own forward and full logits; plain layout only."""
        logits = self.model(
            input_ids=inputs.input_ids,
            attention_mask=(inputs.group != PADDING).long(),
            use_cache=False,
        ).logits
        logits = logits.flatten(0, 1)[inputs.sources, : self.vocab_size].float()
        return logits.log_softmax(-1).gather(1, inputs.labels[:, None])[:, 0]


class ChunkedLogprob(torch.autograd.Function):
    """log_softmax(softcap(hidden @ weight.T + bias))[label] in float32, [K].

    A chunk is a slice of the vocabulary for all rows: each weight is read, and its gradient
    written, once a pass. Backward computes the logits again; their log-normaliser is saved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        softcap: float | None,
    ) -> Tensor:
        ctx.softcap = softcap
        chosen = hidden.new_zeros(len(hidden), dtype=torch.float32)
        normaliser = torch.full_like(chosen, -torch.inf)
        measure = _fused(_chosen_and_normaliser) if hidden.is_cuda else _chosen_and_normaliser
        for part in _chunks(hidden, weight):
            logits = nn.functional.linear(hidden, weight[part], _part(bias, part))
            found, of_part = measure(logits, labels - part.start, softcap)
            del logits
            chosen += found
            normaliser = torch.logaddexp(normaliser, of_part)
        ctx.save_for_backward(hidden, weight, bias, labels, chosen, normaliser)
        return chosen - normaliser

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, chosen, normaliser = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
        slopes_of = _fused(_slopes) if hidden.is_cuda else _slopes
        # d logprob / d logits = onehot - softmax
        at_label = grad * (1 - (chosen - normaliser).exp())
        if ctx.softcap:
            at_label *= 1 - (chosen / ctx.softcap).square()
        for part in _chunks(hidden, weight):
            logits = nn.functional.linear(hidden, weight[part], _part(bias, part))
            slopes = slopes_of(logits, labels - part.start, normaliser, grad, at_label, ctx.softcap)
            del logits
            grad_hidden += slopes @ weight[part]
            if grad_weight is not None:
                torch.mm(slopes.T, hidden, out=grad_weight[part])
            if grad_bias is not None:
                grad_bias[part] = slopes.sum(0)
        return grad_hidden.to(hidden.dtype), grad_weight, grad_bias, None, None


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    rows = max(len(hidden), MIN_ROWS)
    size = max(1, CHUNK_BYTES[weight.device.type] // (4 * rows))
    return [slice(start, min(start + size, len(weight))) for start in range(0, len(weight), size)]


def _part(bias: Tensor | None, part: slice) -> Tensor | None:
    return None if bias is None else bias[part]


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def _chosen_and_normaliser(
    logits: Tensor, labels: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Of one chunk; a label outside it has chosen 0."""
    is_inside, columns = _columns(logits, labels)
    logits = _capped(logits.float(), softcap)
    chosen = torch.where(is_inside, logits.gather(1, columns[:, None])[:, 0], 0.0)
    return chosen, logits.logsumexp(-1)


def _slopes(
    logits: Tensor,
    labels: Tensor,
    normaliser: Tensor,
    grad: Tensor,
    at_label: Tensor,
    softcap: float | None,
) -> Tensor:
    """Gradient of a chunk's logits, in their precision."""
    dtype = logits.dtype
    is_inside, columns = _columns(logits, labels)
    logits = _capped(logits.float(), softcap)
    slope = 1 - (logits / softcap).square() if softcap else None
    logits.sub_(normaliser[:, None]).exp_().mul_(-grad[:, None])
    if slope is not None:
        logits.mul_(slope)
    kept = logits.gather(1, columns[:, None])[:, 0]
    logits.scatter_(1, columns[:, None], torch.where(is_inside, at_label, kept)[:, None])
    return logits.to(dtype)


def _columns(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a label is one of the chunk's columns, and its column, which is any if not."""
    width = logits.shape[1]
    return (labels >= 0) & (labels < width), labels.clamp(0, width - 1)


@cache
def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """One pass over the logits instead of one per operation."""
    return torch.compile(function, dynamic=True)


def load_student(
    folder: str, *, vocab_size: int, device: torch.device, shared_prompt: bool, lora: LoraKnobs
) -> Student:
    """The model in float32 on its device, without dropout; with an adapter, only that trains."""
    if shared_prompt:
        attention = "flex_attention" if device.type == "cuda" else GROUPED
    else:  # of transformers' own only eager has the soft cap of attention scores
        is_capped = getattr(AutoConfig.from_pretrained(folder), "attn_logit_softcapping", None)
        attention = "eager" if is_capped else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, attention_dropout=0.0
    )
    scale = lora.alpha / lora.rank if lora.rank > 0 else 0.0
    student = Student(prepare_model(model, lora), min(vocab_size, model.config.vocab_size), scale)
    return student.to(device).train()


def prepare_model(model: PreTrainedModel, lora: LoraKnobs) -> PreTrainedModel:
    """No dropout but the adapter's; with an adapter, only that trains."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if lora.rank == 0:
        return model
    adapter = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    return inject_adapter_in_model(adapter, model)


def probe_group(vocab_size: int) -> TrainGroup:
    """A prompt and three completions of seeded random tokens, the same on every rank."""
    random = np.random.default_rng(0)
    prompt, *completions = (random.integers(0, vocab_size, size) for size in (24, 16, 9, 20))
    return TrainGroup("probe", prompt, [TrainCompletion(ids, 1.0, 0.0) for ids in completions])


def check_packed_attention(
    student: Student, group: TrainGroup, device: torch.device, *, precision: str
) -> float:
    """Packed log-probabilities against the model's own on padded rows; the mean difference.

    ValueError when they are not the same function, in which case packing would train nonsense.
    """
    packed = to_device(packed_batch([group], row_multiple(device)).inputs, device)
    plain = to_device(plain_batch([group], mask_prompt=True).inputs, device)
    config = student.model.config
    attention, kind = config._attn_implementation, config.model_type
    remedy = "set training.shared_prompt: false"
    student.eval()  # an adapter's dropout would differ
    try:
        with torch.no_grad(), short_window(student.model, 16):
            logprob = student(packed).logprob
            config._attn_implementation = "eager"  # every model's own words
            difference = (logprob - student.reference_logprob(plain)).abs().mean()
    except (TypeError, AttributeError) as error:  # other arguments than ours, or no mask
        raise ValueError(
            f"student {kind} cannot be given packed groups: {error}; {remedy}"
        ) from error
    finally:
        config._attn_implementation = attention
        student.train()
    tolerance = 1e-3 if precision == "fp32" else 0.1
    if not (difference <= tolerance):
        raise ValueError(
            f"student {kind}: log-probabilities of packed and padded completions differ by "
            f"{difference:.3g} (allowed: {tolerance}); this architecture does not honour the "
            f"packed mask: {remedy}"
        )
    return float(difference)


def to_device(arrays: Any, device: torch.device) -> Any:
    """A NamedTuple of arrays as tensors; other fields stay."""
    return type(arrays)(
        *(
            torch.from_numpy(field).to(device) if isinstance(field, np.ndarray) else field
            for field in arrays
        )
    )
