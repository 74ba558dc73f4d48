"""One of several gloo ranks: loss and whole gradients of dealt groups, as training has them.

PYTHONPATH=tests python ranks.py FOLDER RANK OUT WORLD_SIZE REPLICAS [MODEL OBJECTIVE ...]
An objective is given as JSON.
"""

import sys
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from support.across import with_readings
from support.learner import gradients_of
from support.objectives import in_views, reads_apart, teacher_of
from support.signals import with_signals

from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.objectives import AdvDistill, AnyObjective, Objective
from fastdistill_ray.prompts import Prompted, PromptKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.training.dealing import first_fit
from fastdistill_ray.training.knobs import OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.learner import Learner, build_learner
from fastdistill_ray.training.packing import (
    MicroBatch,
    TrainCompletion,
    TrainGroup,
    batch_of,
    empty_batch,
)
from fastdistill_ray.training.step import COUNTS, backward, gather_groups, pack, sum_over_ranks
from fastdistill_ray.training.texts import read_by_both, student_text

ADVDISTILL = AdvDistill()
WORLD_SIZE = 2
# Groups by rank, by hand: the ranks then have as many micro-batches by empty ones.
DEALS = {"uneven": [[0, 2], [1]], "one rank has none": [[0, 1, 2], []]}
NUM_BATCHES = 2  # of the fullest rank
DEALT = "as training deals them"
TRAINING = TrainingKnobs(precision="fp32", micro_batch_tokens=40)


def make_groups(objective: AnyObjective = ADVDISTILL, frozen: str = "") -> list[TrainGroup]:
    """Pairs have two completions of opposite weights; `frozen` is the teacher's folder."""
    is_pair = objective.needs.whole_groups
    random = np.random.default_rng(7)
    groups = []
    for index, lengths in enumerate([[5, 1, 9], [3, 3], [7, 2, 4, 6]]):
        weights = random.dirichlet(np.ones(len(lengths)))
        if is_pair:
            lengths, weights = lengths[:2], [1.0, -1.0]
        completions = [
            TrainCompletion(random.integers(0, 250, n), float(w), (i % 2) / len(lengths))
            for i, (n, w) in enumerate(zip(lengths, weights, strict=True))
        ]
        prompt, other = random.integers(0, 250, 3 + index), random.integers(0, 250, 9)
        other[9 - 2 * index :] = prompt[len(prompt) - 2 * index :]  # both end so far alike
        own = other if reads_apart(objective) else None
        groups.append(TrainGroup(str(index), prompt, completions, frozen_prompt_ids=own))
    return in_views(with_signals(with_readings(groups, objective), objective, frozen), objective)


def make_learner(folder: str, objective: AnyObjective, replicas: int, frozen: str) -> Learner:
    text: Any = None  # unused, but where two tokenizers are
    if objective.needs.across:
        tokenizer, prompt = load_tokenizer(folder), PromptKnobs()
        text = student_text(folder, tokenizer, prompt, {})
        text = read_by_both(text, tokenizer, Prompted(frozen, prompt), prompt, {})
    return build_learner(
        folder=folder,
        vocab_size=10**6,
        text=text,
        device=torch.device("cpu"),
        objective=objective,
        advantage=AdvantageKnobs(),
        optimizer=OptimizerKnobs(),
        training=TRAINING.model_copy(update={"replicas": replicas}),
        frozen=frozen if objective.needs.frozen or objective.needs.signal else "",
    )


def batches_of(groups: list[TrainGroup], learner: Learner) -> list[MicroBatch]:
    whole = learner.objective.needs.whole_groups
    bins = first_fit(groups, TRAINING.micro_batch_tokens, True, whole)
    batches = [batch_of(members, shared_prompt=True, mask_prompt=True) for members in bins]
    empty = empty_batch(True, no_signals=learner.no_signals)
    return batches + [empty] * (NUM_BATCHES - len(batches))


def loss_and_gradients(
    learner: Learner, batches: list[MicroBatch]
) -> tuple[float, dict, dict, float]:
    """-> loss, gradients, terms, share of the tokens that this rank computes."""
    learner.student.zero_grad()
    counts = sum_over_ranks([sum(batch.counts[name] for batch in batches) for name in COUNTS])
    terms = backward(learner, batches, dict(zip(COUNTS, map(int, counts), strict=True)))
    loss = sum(term.coefficient * term.total for term in terms)
    gradients = gradients_of(learner.student)
    own = sum(batch.counts["unique_tokens"] for batch in batches)
    totals = {term.name: term.total for term in terms}
    return loss, gradients, totals, own / counts[COUNTS.index("unique_tokens")]


def main(folder: str, rank: int, out: str, world_size: int, replicas: int, *asked: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    found = {}
    for model, kind in zip(asked[::2], asked[1::2], strict=True):
        objective = TypeAdapter(Objective).validate_json(kind)
        frozen = f"{folder}/{teacher_of(objective)}"
        learner = make_learner(f"{folder}/{model}", objective, replicas, frozen)
        groups = make_groups(objective, frozen)
        for deal in (*DEALS, DEALT):
            if deal == DEALT:
                batches = pack(learner, gather_groups(groups[rank::world_size]))
            else:
                mine = [groups[i] for i in dict(enumerate(DEALS[deal])).get(rank, [])]
                batches = batches_of(mine, learner)
            found[model, kind, deal] = loss_and_gradients(learner, batches)
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    rank, out, world_size, replicas, *asked = sys.argv[2:]
    main(sys.argv[1], int(rank), out, int(world_size), int(replicas), *asked)
