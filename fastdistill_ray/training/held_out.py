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

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.signals import GroupSignals, Signals, arrays_of
from fastdistill_ray.groups.steps import (
    RowReader,
    SignalReader,
    StepPlan,
    held_out,
    read_index,
    usable,
)
from fastdistill_ray.groups.store import Location, Store
from fastdistill_ray.objectives import Objective
from fastdistill_ray.objectives.contract import LossBatch, Outputs, Target
from fastdistill_ray.training.checkpoints import TrainProgress
from fastdistill_ray.training.knobs import HeldOutKnobs
from fastdistill_ray.training.learner import Learner
from fastdistill_ray.training.packing import Array, MicroBatch, Part, TrainGroup
from fastdistill_ray.training.reading import ReadGroup, read_group, train_group
from fastdistill_ray.training.sharding import reshard
from fastdistill_ray.training.step import (
    COUNTS,
    compute,
    gather_groups,
    make_batches,
    pack,
    sum_over_ranks,
)
from fastdistill_ray.training.student import to_device


class CompletionLabels(NamedTuple):
    """Arrays [C] of a micro-batch; the completion of an empty one is neither correct nor wrong."""

    is_correct: Array  # bool
    is_wrong: Array  # bool
    group_weight: Array  # float32, of the completion in its group, as the objective says


class HeldOut(NamedTuple):
    """A rank's share of the held-out groups, packed once."""

    batches: list[MicroBatch]  # with every completion; as many on all ranks
    labels: list[CompletionLabels]  # of each micro-batch
    counts: dict[str, int]  # what training would divide by, over all ranks


# Of an objective's outputs.
PER_TARGET = ("logprob", "divergence", "frozen_logprob", "picked", "rest", "others", "written")
NO_LABELS = CompletionLabels(np.zeros(1, bool), np.zeros(1, bool), np.zeros(1, np.float32))


def held_out_rows(plan: StepPlan, rank: int, world_size: int) -> list[dict[str, Any]]:
    """The held-out groups of a complete store, dealt to ranks by position."""
    store = Store(plan.rounds.mixed if plan.rounds else plan.folder)
    index, reader = usable(read_index(store), plan), RowReader(store)
    rows = index.filter(held_out(index["key"], plan.held_out, plan.seed)).to_pylist()
    groups = [reader.read(Location(**row)) for row in rows[rank::world_size]]
    if plan.signals:
        stored = SignalReader(plan.signals)
        for group in groups:
            table = stored.read(group["problem_id"])
            group["signals"] = GroupSignals(arrays_of(table), plan.signals.signal)
    return groups


def hold_out(learner: Learner, rows: list[dict[str, Any]]) -> HeldOut:
    """UserError, the same on all ranks, where they cannot give the value the recipe watches."""
    read = [
        read_group(
            row,
            learner.text,
            min_completions=learner.objective.min_completions,
            advantage=learner.advantage,
            max_seq_len=learner.training.max_seq_len,
        )
        for row in rows
    ]
    groups = gather_groups(read)
    labels_of = {group.group_id: label_group(group, learner.objective) for group in groups}
    batches = pack(learner, [with_every_completion(group, learner.objective) for group in groups])
    labels = [
        join_labels([part_of(labels_of[part.group_id], part) for part in batch.parts])
        if batch.counts["completions"]
        else NO_LABELS
        for batch in batches
    ]
    trained = make_batches(learner, rows)
    counts = [sum(batch.counts[name] for batch in trained) for name in COUNTS]
    counts += [sum(int(label.is_correct.sum()) for label in labels)]
    counts += [sum(int(label.is_wrong.sum()) for label in labels)]
    names = (*COUNTS, "correct", "wrong")
    totals = dict(zip(names, map(int, sum_over_ranks(counts)), strict=True))
    check_watched(totals, learner.training.held_out)
    return HeldOut(batches, labels, totals)


def check_watched(totals: dict[str, int], knobs: HeldOutKnobs) -> None:
    """UserError where no held-out completion is of a kind that the watched value needs."""
    needed = {"likelihood_correct": ["correct"], "likelihood_gap": ["correct", "wrong"]}
    for name in needed.get(knobs.best_metric, ["completions"]):
        if not totals[name]:
            kind = name if knobs.best_metric in needed else "trained"
            raise UserError(
                f"training.held_out.share: {knobs.share} of the kept groups holds no {kind} "
                "completion; raise it"
            )


def with_every_completion(group: ReadGroup, objective: Objective) -> TrainGroup:
    """Those the objective does not train have no coefficient."""
    trained = {target.index: target for target in objective.targets(group.scored)}
    targets = [trained.get(i, Target(i, 0.0, 0.0)) for i in range(len(group.scored))]
    return train_group(group, targets)


def label_group(group: ReadGroup, objective: Objective) -> CompletionLabels:
    is_correct = np.array([completion.is_correct for completion in group.scored])
    weights = objective.group_weights(group.scored).astype(np.float32)
    return CompletionLabels(is_correct, ~is_correct, weights)


def part_of(labels: CompletionLabels, part: Part) -> CompletionLabels:
    return CompletionLabels(*(array[part.first : part.first + part.size] for array in labels))


def join_labels(groups: list[CompletionLabels]) -> CompletionLabels:
    return CompletionLabels(*(np.concatenate(arrays) for arrays in zip(*groups, strict=True)))


def validate(learner: Learner, groups: HeldOut) -> dict[str, float]:
    """`held_out/...` of the student as it is."""
    start = time.perf_counter()
    learner.student.eval()
    sums: Counter[str] = Counter()
    terms: dict[str, Any] = {}
    with torch.no_grad():
        for batch, labels in zip(groups.batches, groups.labels, strict=True):
            outputs = compute(learner, batch)
            loss = to_device(batch.loss, learner.device)
            sums.update(_likelihoods(outputs, loss, to_device(labels, learner.device)))
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
    results |= {f"loss/{name}": value for name, value in parts.items()} | _means(totals)
    return {
        **{f"held_out/{name}": value for name, value in results.items()},
        "time/held_out": time.perf_counter() - start,
    }


def _trained(outputs: Outputs, loss: LossBatch) -> tuple[Outputs, LossBatch]:
    """What training would see at its end: without the completions that have no coefficient."""
    is_trained = (loss.weight != 0) | (loss.penalty != 0)
    is_target = is_trained[loss.completion]
    place = is_trained.cumsum(0) - 1
    kept = {
        name: values[is_target]
        for name in PER_TARGET
        if (values := getattr(outputs, name)) is not None
    }
    taps = tuple((own[is_target], other[is_target]) for own, other in outputs.taps)
    if outputs.likeliest is not None:
        kept["likeliest"] = tuple(values[is_target] for values in outputs.likeliest)
    if outputs.top is not None:
        kept["top"] = tuple(None if values is None else values[is_target] for values in outputs.top)
    if outputs.signals is not None:
        kept["signals"] = Signals(*(values[is_target] for values in outputs.signals))
    relations = tuple(values[is_target] for values in outputs.relations)
    spans = tuple(values[is_target] for values in outputs.spans)
    return outputs._replace(**kept, taps=taps, relations=relations, spans=spans), LossBatch(
        completion=place[loss.completion[is_target]],
        lengths=loss.lengths[is_trained],
        weight=loss.weight[is_trained],
        penalty=loss.penalty[is_trained],
        group=loss.group[is_trained].unique(return_inverse=True)[1],
        is_own=None if loss.is_own is None else loss.is_own[is_target],
        spans=None if loss.spans is None else loss.spans[is_trained],
        progress=1.0,  # so that the losses of two steps are of one kind
    )


def _likelihoods(outputs: Outputs, loss: LossBatch, labels: CompletionLabels) -> dict[str, float]:
    """Sums over the correct and the wrong completions of a micro-batch."""
    likelihood = loss.mean_own_tokens(outputs.logprob).exp()
    sums = {}
    for kind, is_kind in (("correct", labels.is_correct), ("wrong", labels.is_wrong)):
        is_kind = is_kind.double()
        weight = is_kind * labels.group_weight
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
        if weight := totals[f"weight_{kind}"]:  # that of a wrong one may be 0, with a small tau
            means[f"weighted_likelihood_{kind}"] = totals[f"weighted_{kind}"] / weight
    if "likelihood_correct" in means and "likelihood_wrong" in means:
        means["likelihood_gap"] = means["likelihood_correct"] - means["likelihood_wrong"]
    return means


def mark_best(
    progress: TrainProgress, results: dict[str, float], knobs: HeldOutKnobs
) -> TrainProgress:
    """The progress with this step as the best one, or as one more that is not better."""
    if knobs.best_metric == "none":
        return progress
    name = "loss/ce" if knobs.best_metric == "ce" else knobs.best_metric
    value = results[f"held_out/{name}"]
    score = value if knobs.best_metric.startswith("likelihood") else -value
    if score > progress.best_score:
        return progress._replace(best_step=progress.step, best_score=score, num_worse=0)
    return progress._replace(num_worse=progress.num_worse + 1)


def is_stopped(progress: TrainProgress, knobs: HeldOutKnobs) -> bool:
    return 0 < knobs.patience <= progress.num_worse
