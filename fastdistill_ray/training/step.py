"""One optimizer update from all ranks' groups: micro-batches, normalised loss, clip, schedule.

Collectives here are the same in number and order on every rank, whatever groups it has.
"""

import itertools
import math
import resource
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.signals import Signals
from fastdistill_ray.objectives.contract import Outputs, Term
from fastdistill_ray.training.across import Aligned
from fastdistill_ray.training.alignment import NO_SPANS, REASONS
from fastdistill_ray.training.attention import row_multiple
from fastdistill_ray.training.dealing import deal
from fastdistill_ray.training.head import Readout
from fastdistill_ray.training.knobs import OptimizerKnobs
from fastdistill_ray.training.learner import Learner
from fastdistill_ray.training.operators import of_top, picks
from fastdistill_ray.training.packing import Inputs, MicroBatch, TrainGroup, batch_of
from fastdistill_ray.training.reading import prepare_group
from fastdistill_ray.training.relations import common_texts, related
from fastdistill_ray.training.sharding import reshards_every_batch
from fastdistill_ray.training.student import Compared, Read, Student, to_device
from fastdistill_ray.training.utilisation import num_operations

COUNTS: tuple[str, ...] = (
    "groups",
    "explained",
    "completions",
    "tokens",
    "spans",
    "unique_tokens",
    "row_tokens",
    "computed_tokens",
    "frozen_tokens",
)

PREPARED = "prepared"  # field of a row beside those of STEP_SCHEMA

T = TypeVar("T")


def train_step(learner: Learner, row: dict[str, Any], total_steps: int) -> dict[str, float]:
    """One optimizer update from all ranks' groups, prepared or not; UserError in place of one that
    is not finite."""
    start = time.perf_counter()
    frozen_before = learner.frozen.seconds if learner.frozen else 0.0
    step = row["step"]
    torch.manual_seed(hash((learner.training.seed, step, dist.get_rank())))  # adapters' dropout
    prepared = row[PREPARED] if PREPARED in row else prepare_rows(learner, row["groups"])
    batches = pack(learner, flat(gather_groups(prepared.groups)))
    counts = sum_over_ranks([sum(batch.counts[name] for batch in batches) for name in COUNTS])
    counts = dict(zip(COUNTS, map(int, counts), strict=True))
    used = check_aligned(learner, prepared.unaligned, counts["groups"])
    losses = backward(learner, batches, counts, step / total_steps)
    learning_rate = learning_rate_at(step, total_steps, learner.knobs)
    norm = clip_gradients(learner.student, learner.knobs.max_grad_norm)
    loss = sum_terms(losses)
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise UserError(
            f"training stopped at step {step + 1}: loss {loss}, gradient norm {norm}; lower "
            "optimizer.learning_rate or set training.precision: fp32"
        )
    set_learning_rate(learner.optimizer, learning_rate)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    seconds = time.perf_counter() - start
    if learner.frozen:
        used["train/frozen_tokens"] = counts["frozen_tokens"]
        if learner.device.type == "cpu":  # where a pass has ended when it returns
            used["time/frozen"] = learner.frozen.seconds - frozen_before
    if learner.peak:
        operations = sum_over_ranks([num_operations(learner.work, batches)])[0]
        used["time/mfu"] = operations / (seconds * dist.get_world_size() * learner.peak)
    return {
        "train/loss": loss,
        **{f"loss/{term.name}": term.total for term in losses},
        "train/grad_norm": norm,
        "train/learning_rate": learning_rate,
        "train/num_groups": counts["groups"],
        "train/empty_groups": row["num_groups"] - counts["groups"],
        "train/num_completions": counts["completions"],
        "train/trained_tokens": counts["tokens"],
        "train/unique_tokens": counts["unique_tokens"],
        "train/row_tokens": counts["row_tokens"],
        "train/computed_tokens": counts["computed_tokens"],
        "memory/peak_gib": peak_memory(learner.device) / 2**30,
        "time/step": seconds,
        "train/tokens_per_second": counts["tokens"] / seconds,
        **used,
    }


def num_unaligned(learner: Learner) -> list[int]:
    """Texts that this rank could not align so far, of each of REASONS."""
    aligner = learner.text.aligner
    return [aligner.lost[reason] for reason in REASONS] if aligner else []


def check_aligned(learner: Learner, lost: list[int], num_groups: int) -> dict[str, float]:
    """Metrics of the texts of all ranks that could not be aligned; UserError where those are all
    that the step has."""
    if not lost:
        return {}
    found = dict(zip(REASONS, map(int, sum_over_ranks(lost)), strict=True))
    if num_groups == 0 and any(found.values()):
        reasons = "; ".join(f"of {n}, {REASONS[name]}" for name, n in found.items() if n)
        raise UserError(
            f"{learner.objective.kind} can align no text of a step with the teacher's tokens: "
            f"{reasons}; take a teacher of another tokenizer, or a kind that learns from texts "
            "alone, such as sft or advdistill"
        )
    return {f"train/unaligned_{name}": number for name, number in found.items()}


def peak_memory(device: torch.device) -> int:
    """Bytes at most in use by this rank so far: of the GPU, or resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Prepared(NamedTuple):
    """A rank's rows of a step, as the student reads them."""

    groups: list[list[TrainGroup]]  # of each row
    unaligned: list[int]  # texts that could not be aligned, of each of REASONS


def prepare_rows(learner: Learner, rows: list[dict[str, Any]]) -> Prepared:
    before = num_unaligned(learner)
    groups = [
        prepare_group(
            row,
            learner.text,
            learner.objective,
            advantage=learner.advantage,
            max_seq_len=learner.training.max_seq_len,
        )
        for row in rows
    ]
    lost = [now - then for now, then in zip(num_unaligned(learner), before, strict=True)]
    return Prepared(groups, lost)


def make_batches(learner: Learner, rows: list[dict[str, Any]]) -> list[MicroBatch]:
    """This rank's, of all ranks' rows; as many on every rank."""
    return pack(learner, flat(gather_groups(prepare_rows(learner, rows).groups)))


def flat(groups: list[list[TrainGroup]]) -> list[TrainGroup]:
    return [one for group in groups for one in group]


def gather_groups(own: Sequence[T | None]) -> list[T]:
    """Those of all ranks in the order of the step, of which each rank has every so manieth."""
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, own)
    in_order = itertools.zip_longest(*shares)
    return [group for row in in_order for group in row if group is not None]


def pack(learner: Learner, groups: list[TrainGroup]) -> list[MicroBatch]:
    """This rank's micro-batches of all ranks' groups; as many on every rank."""
    training = learner.training
    dealt = deal(
        groups,
        world_size=dist.get_world_size(),
        micro_batch_tokens=training.micro_batch_tokens,
        shared_prompt=training.shared_prompt,
        work=learner.work,
        whole=learner.objective.needs.whole_groups,
    )
    return [
        batch_of(
            members,
            shared_prompt=training.shared_prompt,
            mask_prompt=training.mask_prompt,
            multiple_of=row_multiple(learner.device),
            no_signals=learner.no_signals,
        )
        for members in dealt[dist.get_rank()]
    ]


def backward(
    learner: Learner, batches: list[MicroBatch], counts: dict[str, int], progress: float = 0.0
) -> list[Term]:
    """Accumulates gradients of the step's loss; -> its terms, normalised, over all ranks.

    `progress`: share of the training's updates that are done."""
    world_size = dist.get_world_size()
    # Exchange gradients after every micro-batch on several GPUs (no rank then holds a whole model's
    # gradients), else once per step.
    syncs_every_batch = learner.device.type == "cuda" and world_size > 1
    reshards = reshards_every_batch(learner.training, learner.device)
    sharded = cast(FSDPModule, learner.student)  # what fully_shard has made of it
    totals: dict[str, Term] = {}
    for index, batch in enumerate(batches):
        syncs_now = syncs_every_batch or index == len(batches) - 1
        sharded.set_requires_gradient_sync(syncs_now)
        sharded.set_reshard_after_backward(syncs_now or reshards)
        outputs = compute(learner, batch)
        constants = to_device(batch.loss, learner.device)._replace(progress=progress)
        terms = learner.objective(outputs, constants)
        if outputs.router is not None:
            terms.append(router_term(learner.student, outputs.router, batch))
        terms = [
            term._replace(total=term.total / max(1, counts.get(term.denominator, 1)))
            for term in terms
        ]
        # FSDP2 averages gradients over ranks; the denominators already span them.
        (world_size * sum_terms(terms)).backward()
        for term in terms:
            before = totals[term.name].total if term.name in totals else 0.0
            totals[term.name] = term._replace(total=before + term.total.detach())
    values = sum_over_ranks([term.total.item() for term in totals.values()])
    return [term._replace(total=value) for term, value in zip(totals.values(), values, strict=True)]


def compute(learner: Learner, batch: MicroBatch) -> Outputs:
    """What the models say of a micro-batch's targets: the student and, where the objective needs
    one, the frozen model."""
    inputs, needs = to_device(batch.inputs, learner.device), learner.objective.needs
    if needs.signal and batch.signals is not None:
        return _with_signals(learner, inputs, to_device(batch.signals, learner.device))
    if (frozen := learner.frozen) is None:
        if not needs.top:
            return learner.student(inputs)

        def own_top(readout: Readout, _: Read) -> Compared:
            return Compared(top=of_top(readout, None, needs.top, inputs.labels))

        return learner.student(inputs, own_top)
    seen = to_device(batch.frozen, learner.device) if batch.frozen else inputs
    if needs.fed and not (seen is inputs or torch.equal(seen.input_ids, inputs.input_ids)):
        raise UserError(
            f"{learner.objective.kind} gives the student's blocks the teacher's states, of a "
            "prompt that the student reads otherwise; give both one prompt"
        )

    if needs.across:
        spans = to_device(batch.spans or NO_SPANS, learner.device)
        aligned = Aligned(spans, learner.events)
        outputs = learner.student(inputs, lambda readout, _: frozen(seen, readout, needs, aligned))
        return _with_written(learner, batch, outputs)

    def compare(readout: Readout, own: Read) -> Compared:
        penalty_K = batch.loss.penalty[batch.loss.completion]
        has_penalty_K = torch.from_numpy(penalty_K != 0).to(learner.device)
        found = frozen(seen, readout, needs, has_penalty_K=has_penalty_K)
        if needs.fed:
            return _fed(learner, inputs, found)
        if not needs.relations:
            return found
        texts = common_texts(batch.inputs, batch.frozen or batch.inputs)
        return found._replace(relations=related(own.vectors, found.vectors, texts))

    return _with_written(learner, batch, learner.student(inputs, compare, needs.wanted(0)))


def _with_written(learner: Learner, batch: MicroBatch, outputs: Outputs) -> Outputs:
    """With the log-probabilities by which the targets were drawn, where they are needed."""
    if not learner.objective.needs.written or batch.signals is None:
        return outputs
    signals = to_device(batch.signals, learner.device)
    return outputs._replace(written=signals.values[:, 0])


def _fed(learner: Learner, inputs: Inputs, found: Compared) -> Compared:
    """With the student's states where each of its parts begins with the frozen model's."""
    taps = learner.objective.needs.taps
    given = {block: found.whole[other] for block, other in taps}
    return found._replace(own=learner.student.read_fed(inputs, list(given), given))


def _with_signals(learner: Learner, inputs: Inputs, signals: Signals) -> Outputs:
    """The student beside what was stored of the targets."""
    needs = learner.objective.needs
    assert needs.signal
    if needs.signal.kind == "chosen":
        return learner.student(inputs)._replace(frozen_logprob=signals.values[:, 0])
    if needs.signal.kind == "hidden":
        head = learner.head
        assert head
        return learner.student(
            inputs, lambda readout, _: Compared(head(signals.hidden, readout, needs.measure))
        )
    temperature = needs.signal.temperature

    def pick(readout: Readout, _: Read) -> Compared:
        picked, rest = picks(readout, signals.ids, temperature)
        return Compared(picked=picked, rest=rest)

    return learner.student(inputs, pick)._replace(signals=signals)


def router_term(student: Student, loss: torch.Tensor, batch: MicroBatch) -> Term:
    """A micro-batch counts by its tokens, one that is empty not at all: the step has a mean."""
    total = batch.counts["unique_tokens"] * loss
    return Term("router", total, "unique_tokens", student.router_coefficient)


def sum_terms(terms: list[Term]) -> Any:
    """The loss: a tensor where the terms' totals are, else a number."""
    return sum(term.coefficient * term.total for term in terms)


def clip_gradients(student: Student, max_norm: float) -> float:
    """Scales the gradients to at most `max_norm` over all ranks; -> the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(student.parameters(), max_norm)
    return cast(DTensor, norm).full_tensor().item()


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # of an optimizer whose step is compiled
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def learning_rate_at(step: int, total_steps: int, knobs: OptimizerKnobs) -> float:
    """The rate of update `step`, from 0: linear warm-up that starts above 0, then the schedule."""
    warmup = math.ceil(knobs.warmup_ratio * total_steps)
    if step < warmup:
        return knobs.learning_rate * (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    factors = {
        "cosine": (1 + math.cos(math.pi * share)) / 2,
        "linear": 1 - share,
        "constant": 1.0,
    }
    return knobs.learning_rate * factors[knobs.schedule]


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    device = "cpu" if "gloo" in dist.get_backend_config() else "cuda"
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()
