"""A tiny mixture of experts, and transformers' own loss of its routers' choices."""

import torch
from support.models import make_tiny_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from fastdistill_ray.training.packing import TrainGroup

COEFFICIENT, EXPERTS, CHOSEN = 0.25, 4, 2


def make_experts(folder: str) -> str:
    """With the tokenizer of `make_tiny_model`; its routers' choices are uneven."""
    make_tiny_model(folder)
    config = AutoConfig.for_model(
        "mixtral",
        vocab_size=AutoConfig.from_pretrained(folder).vocab_size,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        router_aux_loss_coef=COEFFICIENT,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, one in model.named_parameters():
                if "gate.weight" in name:
                    one.normal_()
    model.save_pretrained(folder)
    return folder


def exact_model(folder: str) -> MixtralForCausalLM:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, experts_implementation="eager", attn_implementation="eager"
    )


def exact_loss(model: MixtralForCausalLM, groups: list[TrainGroup], *, once: bool) -> Tensor:
    """One forward per completion; `once`: a prompt counts with the first of its group alone."""
    layers: list[list[Tensor]] = [[] for _ in model.model.layers]
    for group in groups:
        for place, completion in enumerate(group.completions):
            ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
            logits = model(ids, output_router_logits=True).router_logits
            first = len(group.prompt_ids) if once and place > 0 else 0
            for layer, one in zip(layers, logits, strict=True):
                layer.append(one[first:])
    return load_balancing_loss_func(tuple(map(torch.cat, layers)), EXPERTS, CHOSEN)
