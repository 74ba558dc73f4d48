"""How much of a device's arithmetic a step uses: the model's operations over what it can do.

Counted are the products the model needs, forward and twice that backward, of every token computed
once; what is recomputed does not count. Legend: P tokens of a prompt, L of a completion.
"""

import time
from typing import Any

import numpy as np
import torch

from fastdistill_ray.models import NUM_CHOSEN, NUM_EXPERTS
from fastdistill_ray.training.dealing import Work
from fastdistill_ray.training.packing import PADDING, PROMPT, Inputs, MicroBatch

EXPERTS = ".experts."  # in the names of weights that few tokens go through
MATRIX = 8192  # rows of the square bf16 product that says what a device can do


def work_of(model: Any) -> Work:
    config = model.config.get_text_config()
    head = model.get_output_embeddings().weight
    outside = {id(head), id(model.get_input_embeddings().weight)}
    share = share_of_experts(config)
    blocks = sum(
        _per_token(weight) * (share if EXPERTS in name else 1.0)
        for name, weight in model.named_parameters()
        if id(weight) not in outside
    )
    width = config.hidden_size * config.num_hidden_layers
    return Work(token=blocks, target=_per_token(head), pair=12 * width)


def num_operations(work: Work, batches: list[MicroBatch]) -> float:
    """Floating-point operations of the training of these micro-batches."""
    computed = sum(batch.counts["unique_tokens"] for batch in batches)
    targets = sum(batch.counts["tokens"] for batch in batches)
    pairs = sum(num_pairs(batch.inputs) for batch in batches if batch.counts["completions"])
    return work.token * computed + work.target * targets + work.pair * pairs


def share_of_experts(config: Any) -> float:
    """Experts that a token goes through, of all that are chosen between; 1 where none are."""
    num_experts, num_chosen = (
        next((found for name in names if (found := getattr(config, name, None))), 0)
        for names in (NUM_EXPERTS, NUM_CHOSEN)
    )
    return num_chosen / num_experts if num_experts and num_chosen else 1.0


def _per_token(weight: Any) -> int:
    """A frozen weight has no gradient of its own to be computed."""
    return (6 if weight.requires_grad else 4) * weight.numel()


def num_pairs(inputs: Inputs) -> float:
    """Pairs of a token and one it sees: P^2 / 2 of a prompt, L P + L^2 / 2 of a completion."""
    is_token = inputs.group != PADDING
    kinds = np.stack([inputs.group[is_token], inputs.completion[is_token]])
    (groups, completions), lengths = np.unique(kinds, axis=1, return_counts=True)
    prompts = dict(zip(groups[completions == PROMPT], lengths[completions == PROMPT], strict=True))
    pairs = (lengths**2 / 2).sum()
    if inputs.is_packed:
        for group, completion, length in zip(groups, completions, lengths, strict=True):
            if completion != PROMPT:
                pairs += length * prompts[group]
    return float(pairs)


def matrix_peak(device: torch.device) -> float:
    """Operations per second of a bf16 matrix product, the best of five."""
    factor = torch.randn(MATRIX, MATRIX, device=device, dtype=torch.bfloat16)
    seconds = []
    for _ in range(5):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        torch.mm(factor, factor)
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / min(seconds)
