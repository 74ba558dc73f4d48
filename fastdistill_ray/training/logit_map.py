"""How a model makes logits of what its head gives: times a factor, under a soft cap.

The factor is named differently in each family (granite divides by `logits_scaling`, hyperclovax
multiplies by it, cohere has `logit_scale`), so it is taken from the config and held against the
model's own forward.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fastdistill_ray.errors import UserError

FACTORS = ("logits_scaling", "logit_scale", "lm_head_multiplier")
SOFTCAP = "final_logit_softcapping"
PROBE_TOKENS = 4
TOLERANCE = 1e-3  # of the largest logit; factors of families differ by more


def softcap_of(config: Any) -> float | None:
    return getattr(config.get_text_config(), SOFTCAP, None)


def logit_factor(model: PreTrainedModel) -> float:
    """UserError where the model's logits are not its head's, times a factor of its config."""
    ids = torch.arange(1, 1 + PROBE_TOKENS, device=model.device)[None]
    config = model.config.get_text_config()
    attention, is_training = config._attn_implementation, model.training
    config._attn_implementation = "eager"
    model.eval()
    try:
        with torch.no_grad():
            hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            raw = cast(nn.Linear, model.get_output_embeddings())(hidden).float()
            own = model(input_ids=ids, use_cache=False).logits.float()
    finally:
        config._attn_implementation = attention
        model.train(is_training)
    cap = softcap_of(config)
    for factor in _candidates(config):
        if _is_near(_capped(factor * raw, cap), own):
            return factor
    raise UserError(
        f"student {model.config.model_type}: its logits are not those of its head, times a factor "
        f"that its config names ({', '.join(FACTORS)}); it cannot be trained here"
    )


def _candidates(config: Any) -> Iterator[float]:
    yield 1.0
    for name in FACTORS:
        if value := getattr(config, name, None):
            yield from (float(value), 1 / float(value))
    if base := getattr(config, "dim_model_base", None):  # MiniCPM
        yield base / config.hidden_size


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    return cap * torch.tanh(logits / cap) if cap else logits


def _is_near(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() <= TOLERANCE * second.abs().max())
