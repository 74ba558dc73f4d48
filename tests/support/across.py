"""Texts as two tokenizers read them, and what is compared of both by definition, in float64."""

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from fastdistill_ray.objectives import AnyObjective
from fastdistill_ray.training.alignment import Reading
from fastdistill_ray.training.packing import TrainCompletion, TrainGroup

BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
VOCABULARY = 320  # of the twin's tokenizer


def with_readings(groups: list[TrainGroup], objective: AnyObjective) -> list[TrainGroup]:
    """As if the model beside the student read other tokens, and both began spans here and there."""
    if not objective.needs.across:
        return groups
    return [one._replace(completions=list(map(_read_anyhow, one.completions))) for one in groups]


def _read_anyhow(one: TrainCompletion) -> TrainCompletion:
    random = np.random.default_rng(int(one.token_ids.sum()))
    size = int(random.integers(1, 2 * len(one.token_ids) + 1))
    num_spans = int(random.integers(1, min(size, len(one.token_ids)) + 1))
    places = [
        np.sort(random.choice(np.arange(1, most), num_spans - 1, replace=False))
        for most in (len(one.token_ids), size)
    ]
    starts = np.concatenate([np.zeros((1, 2), dtype=np.int64), np.stack(places, 1)])
    return one._replace(reading=Reading(random.integers(0, VOCABULARY, size), starts))


def as_read_by_itself(groups: list[TrainGroup]) -> list[TrainGroup]:
    """Each token is a span."""

    def read(one: TrainCompletion) -> TrainCompletion:
        places = np.arange(len(one.token_ids))
        return one._replace(reading=Reading(one.token_ids, np.stack([places, places], 1)))

    return [one._replace(completions=list(map(read, one.completions))) for one in groups]


def compared_by_definition(
    objective: AnyObjective, logits: Tensor, other: Tensor, one: TrainCompletion, folders: list[str]
) -> Tensor:
    """[S] of a completion, from both models' logits at all its tokens."""
    t, places = objective.temperature, torch.from_numpy(one.reading.starts)
    q, p = (logits / t).softmax(-1)[places[:, 0]], (other / t).softmax(-1)[places[:, 1]]
    if objective.kind == "uld":
        return t * torch.stack([wasserstein(*pair) for pair in zip(p, q, strict=True)])
    q, p = (next_bytes(x, folder) for x, folder in zip((q, p), folders, strict=True))
    return t**2 * torch.where(p > 0, p * (p / q).log(), 0.0).sum(-1)


def levels_by_definition(
    objective: AnyObjective, logits: Tensor, other: Tensor, one: TrainCompletion
) -> tuple[Tensor, Tensor, Tensor]:
    """[S], [S] and a number: the paper's three costs of a completion."""
    sides = []
    for z in (logits, other):
        q = (z / z.std(-1, keepdim=True) / objective.temperature).softmax(-1)
        order = q.sum(0).argsort(descending=True)
        sides.append(q[:, order[: min(objective.k, logits.shape[1], other.shape[1])]])
    q, p = sides
    cost = torch.stack([torch.stack([(a - b).abs().sum() for b in q]) for a in p])
    plan = (-cost / objective.epsilon).exp()
    for _ in range(objective.iterations):
        plan = plan / plan.sum(1, keepdim=True) / len(p)
        plan = plan / plan.sum(0, keepdim=True) / len(q)
    q, p = (x[one.reading.starts[:, side]] for side, x in enumerate((q, p)))
    return (p - q).abs().sum(-1), -(p * q.log()).sum(-1), (plan * cost).sum()


def wasserstein(p: Tensor, q: Tensor) -> Tensor:
    """Of two distributions whose outcomes are equally far from each other, up to their names."""
    p, q = sorted(p, reverse=True), sorted(q, reverse=True)
    most = max(len(p), len(q))
    p, q = ([*side, *[torch.zeros(()).double()] * (most - len(side))] for side in (p, q))
    return sum((a - b).abs() for a, b in zip(p, q, strict=True))


def next_bytes(q: Tensor, folder: str) -> Tensor:
    """[S, 258]: each byte, the end of the turn, and all else."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = [torch.zeros(len(q)).double() for _ in range(258)]
    for place, token in enumerate(tokenizer.convert_ids_to_tokens(range(q.shape[1]))):
        event = BYTE_OF.get(token[0])
        if place == tokenizer.eos_token_id:
            event = 256
        elif token.startswith("<|"):
            event = 257
        found[event] = found[event] + q[:, place]
    return torch.stack(found, 1)
