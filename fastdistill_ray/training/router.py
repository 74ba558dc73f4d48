"""The loss that keeps the choices of a mixture of experts even (arXiv 2101.03961, eq. 4 to 6), as
transformers computes it for the families that have one.

It is taken over the tokens of a micro-batch without its padding: a packed prompt once, a padded one
with every completion. How even the choices are is no sum over tokens, so that how a step is packed
decides it, as it does in transformers. Legend: N tokens, padding included, E experts.
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import router_coefficient
from fastdistill_ray.training.head import wide

LOSS = "load_balancing_loss_func"  # its name in the module of every family that has one


def trained_coefficient(config: PreTrainedConfig) -> float:
    """Weight of the loss in the forward of transformers' own model; 0: that has none."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    has_loss = hasattr(sys.modules[kind.__module__], LOSS)
    return router_coefficient(config) if has_loss else 0.0


def router_loss(
    model: PreTrainedModel, logits: Sequence[Tensor] | None, is_token_N: Tensor
) -> Tensor:
    """E times the sum over experts of the choices that fell on it and its mean probability, layers
    together; `logits` [N, E] are those of each layer."""
    num_chosen = getattr(model, "num_experts_per_tok", None)
    layers = [layer.flatten(0, -2) for layer in logits or ()]
    if not layers or not num_chosen or any(len(layer) != len(is_token_N) for layer in layers):
        raise UserError(
            f"student {model.config.model_type} does not show what its router chooses for each "
            "token; set training.router_loss: false"
        )
    chosen_E = probability_E = 0.0
    for layer in layers:
        probability_NE = wide(layer).softmax(-1)
        is_chosen_NE = torch.zeros_like(probability_NE)
        is_chosen_NE.scatter_(1, probability_NE.topk(num_chosen).indices, 1.0)
        chosen_E = chosen_E + (is_chosen_NE * is_token_N[:, None]).sum(0)
        probability_E = probability_E + (probability_NE * is_token_N[:, None]).sum(0)
    num_tokens = len(layers) * is_token_N.sum()
    num_experts = layers[0].shape[-1]
    return num_experts * (chosen_E / num_tokens * probability_E / num_tokens).sum()
