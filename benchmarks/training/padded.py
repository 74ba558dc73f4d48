"""AdvDistill as one writes it first with transformers: padded rows, full logits, autocast.

Written to be fair: one group per forward with gradient accumulation over the step's groups, prompt
tokens out of the loss, the same clipping and optimizer, and no logits of padding kept by mistake.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from torch.nn.utils.rnn import pad_sequence

from fastdistill_ray.training.packing import TrainGroup

LAMBDA, P_MAX, MAX_GRAD_NORM = 0.5, 0.999, 0.5


def padded_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, groups: list[TrainGroup]
) -> float:
    """One optimizer update; gradients stay until the next."""
    optimizer.zero_grad()
    total = 0.0
    for group in groups:
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16):
            loss = group_loss(model, group) / len(groups)
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    return total


def group_loss(model: nn.Module, group: TrainGroup) -> Tensor:
    """eq. 5 to 9 of one group."""
    device = next(model.parameters()).device
    prompt = torch.from_numpy(group.prompt_ids).to(device)
    completions = [torch.from_numpy(one.token_ids).to(device) for one in group.completions]
    input_ids = pad_sequence([torch.cat([prompt, ids]) for ids in completions], batch_first=True)
    lengths = torch.tensor([len(ids) for ids in completions], device=device)
    places = torch.arange(input_ids.shape[1], device=device)
    attention_mask = places < (len(prompt) + lengths)[:, None]
    logits = model(input_ids=input_ids, attention_mask=attention_mask.long()).logits
    logprob = log_softmax(logits[:, :-1].float(), dim=-1)
    logprob = logprob.gather(-1, input_ids[:, 1:, None])[:, :, 0]
    mask = attention_mask[:, 1:] & (places[1:] >= len(prompt))
    mean = (logprob * mask).sum(1) / lengths
    probability = (logprob.exp() * mask).sum(1) / lengths
    weight = torch.tensor([one.weight for one in group.completions], device=device)
    penalty = torch.tensor([one.penalty for one in group.completions], device=device)
    contrast = -torch.log1p(-probability.clamp(max=P_MAX))
    return -(weight * mean).sum() + LAMBDA * (penalty * contrast).sum()
