"""Signals of groups, made without the package's own scoring: by transformers, in float64."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from fastdistill_ray.groups.signals import Signal, Signals, no_signals
from fastdistill_ray.objectives import AnyObjective
from fastdistill_ray.training.packing import TrainCompletion, TrainGroup


def with_signals(
    groups: list[TrainGroup], objective: AnyObjective, folder: str
) -> list[TrainGroup]:
    """What the model of the folder says of their completions after its own prompts, or as if who
    wrote them had drawn their tokens with some probability, which the student's is up to three
    times."""
    signal = objective.needs.signal
    if objective.needs.written:
        drawn = [list(map(_drawn, group.completions)) for group in groups]
        return [one._replace(completions=own) for one, own in zip(groups, drawn, strict=True)]
    if signal is None:
        return groups
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )
    found = []
    for group in groups:
        own = group.frozen_prompt_ids
        prompt = group.prompt_ids if own is None else own
        completions = [
            one._replace(signals=signals_of(signal, model, prompt, one.token_ids))
            for one in group.completions
        ]
        found.append(group._replace(completions=completions, frozen_prompt_ids=None))
    return found


def _drawn(one: TrainCompletion) -> TrainCompletion:
    values = np.random.default_rng(len(one.token_ids)).uniform(-6.6, -4.4, (len(one.token_ids), 1))
    signals = no_signals(len(one.token_ids))._replace(values=values.astype(np.float32))
    return one._replace(signals=signals)


@torch.no_grad()
def signals_of(
    signal: Signal, model: torch.nn.Module, prompt: np.ndarray, ids: np.ndarray
) -> Signals:
    read = model(torch.tensor([[*prompt, *ids]]), output_hidden_states=True)
    logprob = (read.logits[0, len(prompt) - 1 : -1] / signal.temperature).log_softmax(-1).numpy()
    none = no_signals(len(ids))
    if signal.kind == "hidden":
        hidden = read.hidden_states[-1][0, len(prompt) - 1 : -1]
        return none._replace(hidden=hidden.float().numpy())
    if signal.kind == "chosen":
        chosen = np.take_along_axis(logprob, np.asarray(ids)[:, None], 1)
        return none._replace(values=chosen.astype(np.float32))
    if signal.kind == "topk":
        order = np.argsort(-logprob, 1)
        top, others = order[:, : signal.size], order[:, signal.size :]
        rest = np.log(np.exp(np.take_along_axis(logprob, others, 1)).sum(1))
        values = np.take_along_axis(logprob, top, 1).astype(np.float32)
        return none._replace(ids=top, values=values, rest=rest.astype(np.float32))
    random = np.random.default_rng(len(ids))
    counts = np.array([random.multinomial(signal.size, row / row.sum()) for row in np.exp(logprob)])
    width = (counts > 0).sum(1).max()
    order = np.argsort(-counts, 1)[:, :width]
    shares = np.take_along_axis(counts, order, 1) / signal.size
    return none._replace(ids=np.where(shares > 0, order, -1), values=shares.astype(np.float32))
