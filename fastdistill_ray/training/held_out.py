"""Held-out groups -> loss parts and likelihoods of the student: the same on every rank, whatever
the number of ranks and the packing.

The likelihood of a completion is the geometric mean of its token probabilities. A weighted mean
counts each completion by its softmax weight in its group (arXiv 2507.00054, eq. 7).
Legend: K target tokens and C completions of a micro-batch.
"""

import time
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.steps import RowReader, StepPlan, held_out, read_index
from fastdistill_ray.groups.store import Location, Store
from fastdistill_ray.objectives import AdvDistill, Objective
from fastdistill_ray.objectives.contract import LossBatch, Outputs, Scored, Target
from fastdistill_ray.rewards.advantages import softmax_weights
from fastdistill_ray.training.checkpoints import TrainProgress
from fastdistill_ray.training.knobs import HeldOutKnobs
from fastdistill_ray.training.learner import Learner
from fastdistill_ray.training.packing import MicroBatch
from fastdistill_ray.training.step import (
    COUNTS,
    empty_micro_batch,
    make_batches,
    max_over_ranks,
    sum_over_ranks,
)
from fastdistill_ray.training.student import to_device

CORRECT, WRONG = 1.0, -1.0  # marks; the completion of an empty micro-batch has neither


class HeldOut(NamedTuple):
    """A rank's share of the held-out groups, packed once."""

    batches: list[MicroBatch]  # with every completion; as many on all ranks
    marks: list[LossBatch]  # in the same places: weight is a mark, penalty the group's weight
    counts: dict[str, int]  # what training would divide by, over all ranks


class EveryCompletion(NamedTuple):
    """An objective that leaves no completion out; those it does not train have no coefficient."""

    objective: Objective

    @property
    def min_completions(self) -> int:
        return self.objective.min_completions

    def targets(self, completions: list[Scored]) -> list[Target]:
        trained = {target.index: target for target in self.objective.targets(completions)}
        return [trained.get(i, Target(i, 0.0, 0.0)) for i in range(len(completions))]


class Marks(EveryCompletion):
    """Whether each completion is correct, and its weight in its group, in place of coefficients."""

    def targets(self, completions: list[Scored]) -> list[Target]:
        tau = getattr(self.objective, "tau", AdvDistill().tau)
        weights = softmax_weights(np.array([one.advantage for one in completions]), tau)
        return [
            Target(index, CORRECT if one.is_correct else WRONG, float(weight))
            for index, (one, weight) in enumerate(zip(completions, weights, strict=True))
        ]


def held_out_rows(plan: StepPlan, rank: int, world_size: int) -> list[dict[str, Any]]:
    """The held-out groups of a complete store, dealt to ranks by position."""
    store = Store(plan.folder)
    index, reader = read_index(store), RowReader(store)
    rows = index.filter(held_out(index["key"], plan.held_out, plan.seed)).to_pylist()
    return [reader.read(Location(**row)) for row in rows[rank::world_size]]


def hold_out(learner: Learner, rows: list[dict[str, Any]]) -> HeldOut:
    """UserError, the same on all ranks, where they cannot give the value the recipe watches."""
    objective = learner.objective
    batches = make_batches(learner._replace(objective=EveryCompletion(objective)), rows)
    marks = [b.loss for b in make_batches(learner._replace(objective=Marks(objective)), rows)]
    trained = make_batches(learner, rows)
    counts = [sum(batch.counts[name] for batch in trained) for name in COUNTS]
    counts += [sum(int((mark.weight == kind).sum()) for mark in marks) for kind in (CORRECT, WRONG)]
    names = (*COUNTS, "correct", "wrong")
    found = dict(zip(names, map(int, sum_over_ranks(counts)), strict=True))
    watched = learner.training.held_out.best_metric
    needed = {"likelihood_correct": ["correct"], "likelihood_gap": ["correct", "wrong"]}
    for name in needed.get(watched, ["completions"]):
        if not found[name]:
            kind = name if watched in needed else "trained"
            raise UserError(
                f"training.held_out.share: {learner.training.held_out.share} of the kept "
                f"groups holds no {kind} completion; raise it"
            )
    missing = max_over_ranks(len(batches)) - len(batches)
    batches += [empty_micro_batch(learner)] * missing
    return HeldOut(batches, marks + [empty_micro_batch(learner).loss] * missing, found)


def validate(learner: Learner, groups: HeldOut) -> dict[str, float]:
    """`held_out/...` of the student as it is."""
    start = time.perf_counter()
    learner.student.eval()
    sums: Counter[str] = Counter()
    terms: dict[str, Any] = {}
    with torch.no_grad():
        for batch, mark in zip(groups.batches, groups.marks, strict=True):
            outputs = learner.student(to_device(batch.inputs, learner.device))
            loss = to_device(batch.loss, learner.device)
            sums.update(_likelihoods(outputs, loss, to_device(mark, learner.device)))
            for term in learner.objective(*_trained(outputs, loss)):
                sums[term.name] += term.total.item()
                terms[term.name] = term
    learner.student.train()
    reshard(learner.student)
    totals = dict(zip(sums, sum_over_ranks(list(sums.values())), strict=True))
    parts = {
        name: totals[name] / max(1, groups.counts.get(term.denominator, 1))
        for name, term in terms.items()
    }
    results = {"loss": sum(terms[name].coefficient * value for name, value in parts.items())}
    results |= parts | _means(totals)
    return {
        **{f"held_out/{name}": value for name, value in results.items()},
        "time/held_out": time.perf_counter() - start,
    }


def _trained(outputs: Outputs, loss: LossBatch) -> tuple[Outputs, LossBatch]:
    """What training would see: without the completions that have no coefficient."""
    is_trained = (loss.weight != 0) | (loss.penalty != 0)
    is_target = is_trained[loss.completion]
    place = is_trained.cumsum(0) - 1
    return outputs._replace(logprob=outputs.logprob[is_target]), LossBatch(
        completion=place[loss.completion[is_target]],
        lengths=loss.lengths[is_trained],
        weight=loss.weight[is_trained],
        penalty=loss.penalty[is_trained],
    )


def _likelihoods(outputs: Outputs, loss: LossBatch, mark: LossBatch) -> dict[str, float]:
    """Sums over the correct and the wrong completions of a micro-batch."""
    likelihood = (loss.sum_tokens(outputs.logprob) / loss.lengths).exp()
    sums = {}
    for kind, value in (("correct", CORRECT), ("wrong", WRONG)):
        is_kind = (mark.weight == value).double()
        weight = is_kind * mark.penalty
        sums[f"count_{kind}"] = is_kind.sum().item()
        sums[f"sum_{kind}"] = (is_kind * likelihood).sum().item()
        sums[f"weight_{kind}"] = weight.sum().item()
        sums[f"weighted_{kind}"] = (weight * likelihood).sum().item()
    return sums


def _means(totals: dict[str, float]) -> dict[str, float]:
    """A kind without completions has no mean."""
    means = {}
    for kind in ("correct", "wrong"):
        if totals[f"count_{kind}"]:
            means[f"likelihood_{kind}"] = totals[f"sum_{kind}"] / totals[f"count_{kind}"]
            weighted = totals[f"weighted_{kind}"] / totals[f"weight_{kind}"]
            means[f"weighted_likelihood_{kind}"] = weighted
    if "likelihood_correct" in means and "likelihood_wrong" in means:
        means["likelihood_gap"] = means["likelihood_correct"] - means["likelihood_wrong"]
    return means


def reshard(student: torch.nn.Module) -> None:
    """No gathered weights stay behind a forward without a backward."""
    for module in student.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def judge(progress: TrainProgress, results: dict[str, float], knobs: HeldOutKnobs) -> TrainProgress:
    """The progress with this step as the best one, or as one more that is not better."""
    if knobs.best_metric == "none":
        return progress
    value = results[f"held_out/{knobs.best_metric}"]
    score = value if knobs.best_metric.startswith("likelihood") else -value
    if score > progress.best_score:
        return progress._replace(best_step=progress.step, best_score=score, num_worse=0)
    return progress._replace(num_worse=progress.num_worse + 1)


def is_stopped(progress: TrainProgress, knobs: HeldOutKnobs) -> bool:
    return 0 < knobs.patience <= progress.num_worse
