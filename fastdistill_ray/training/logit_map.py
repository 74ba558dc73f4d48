"""How a model makes logits of what its head gives: times a factor, under a soft cap.

The factor is named differently in each family (granite divides by `logits_scaling`, hyperclovax
multiplies by it, cohere has `logit_scale`), so it is taken from the config and held against the
model's own forward.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from fastdistill_ray.errors import UserError
from fastdistill_ray.training.head import capped

FACTORS = ("logits_scaling", "logit_scale", "lm_head_multiplier")
SOFTCAP = "final_logit_softcapping"
PROBE_TOKENS = 4
# Of the largest logit; factors of families differ by more.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}


def softcap_of(config: Any) -> float | None:
    return getattr(config.get_text_config(), SOFTCAP, None)


def logit_factor(student: Any, device: torch.device) -> float:
    """UserError where the model's logits are not its head's, times a factor of its config; all
    ranks of a sharded student ask at once."""
    return factors_of(student.model.config)[factor_place(student, device)]


def factor_place(student: Any, device: torch.device) -> int:
    """As `logit_factor`, its place in `factors_of`: that of a model of another size is the same."""
    ids = torch.arange(1, 1 + PROBE_TOKENS, device=device)[None]
    model: PreTrainedModel = student.model
    config = model.config.get_text_config()
    attention, is_training = config._attn_implementation, model.training
    config._attn_implementation = "eager"
    model.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            raw, own = student.logits_of_head(ids)
    finally:
        config._attn_implementation = attention
        model.train(is_training)
    cap, tolerance = softcap_of(config), TOLERANCE[raw.dtype]
    for place, factor in enumerate(factors_of(config)):
        difference = (capped(factor * raw.float(), cap) - own.float()).abs().max()
        if difference <= tolerance * own.abs().max():
            return place
    raise UserError(
        f"student {model.config.model_type}: its logits are not those of its head, times a factor "
        f"that its config names ({', '.join(FACTORS)}); it cannot be trained here"
    )


def factors_of(config: Any) -> list[float]:
    """What the logits may be multiplied with, by its config."""
    text, found = config.get_text_config(), [1.0]
    for name in FACTORS:
        if value := getattr(text, name, None):
            found += [float(value), 1 / float(value)]
    if base := getattr(text, "dim_model_base", None):  # MiniCPM
        found.append(base / text.hidden_size)
    return found
