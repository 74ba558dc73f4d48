"""What a rank trains and how, built in one place."""

import importlib
from typing import NamedTuple

import torch

from fastdistill_ray.groups.signals import Signals, empty_signals
from fastdistill_ray.models import load_config, vocabulary_of
from fastdistill_ray.objectives import Objective
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.training.alignment import events
from fastdistill_ray.training.dealing import Work
from fastdistill_ray.training.frozen import (
    Frozen,
    FrozenHead,
    build_frozen,
    build_sharded_head,
)
from fastdistill_ray.training.knobs import OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.loading import fill
from fastdistill_ray.training.logit_map import logit_factor
from fastdistill_ray.training.packing_check import check_small_copy
from fastdistill_ray.training.reading import StudentText
from fastdistill_ray.training.sharding import hold_frozen, reshard, shard_student
from fastdistill_ray.training.student import Student, add_bridge, empty_student
from fastdistill_ray.training.utilisation import work_of


class Learner(NamedTuple):
    """What a rank trains and how."""

    student: Student
    optimizer: torch.optim.Optimizer
    text: StudentText
    device: torch.device
    objective: Objective
    advantage: AdvantageKnobs
    knobs: OptimizerKnobs
    training: TrainingKnobs
    work: Work
    frozen: Frozen | None = None  # what the objective needs beside the student
    head: FrozenHead | None = None  # of the model whose hidden states are stored
    no_signals: Signals | None = None  # of a token that counts nothing, where the objective has any
    # [V], [W]: with what tokens begin (`alignment.events`), where the frozen model has its own.
    events: tuple[torch.Tensor, torch.Tensor] | None = None
    peak: float = 0.0  # operations per second of the device; 0: not measured


def build_learner(
    *,
    folder: str,
    vocab_size: int,
    text: StudentText,
    device: torch.device,
    objective: Objective,
    optimizer: OptimizerKnobs,
    training: TrainingKnobs,
    advantage: AdvantageKnobs,
    frozen: str = "",
) -> Learner:
    """The model of the folder on its device, sharded over the ranks; all ranks call this at once.

    `vocab_size` is the tokenizer's: log-probabilities are over as many of the head's rows.
    `frozen`: the folder of the model beside it that the objective needs, or of the one whose hidden
    states are stored, if any.
    UserError when packed groups would not be computed as the model's own rows are.
    """
    if training.shared_prompt:
        check_small_copy(folder, device)
    torch.manual_seed(training.seed)  # a new adapter is the same on every rank
    student, weights = empty_student(
        folder,
        vocab_size=vocab_size,
        device=device,
        shared_prompt=training.shared_prompt,
        trains_router=training.router_loss,
        lora=training.lora,
    )
    if objective.needs.bridge:
        add_bridge(student, load_config(frozen).get_text_config().hidden_size, training.seed)
    hold_frozen(student, training)
    shard_student(student, training, device)
    fill(student, weights, torch.device("cpu") if training.cpu_offload else device)
    student.logit_factor = logit_factor(student, device)
    reshard(student)
    beside, head, width = None, None, 0
    signal = objective.needs.signal
    if frozen and signal is None:
        of_frozen = vocabulary_of(frozen) if objective.needs.across else student.vocab_size
        beside = build_frozen(frozen, of_frozen, training, device)
    elif frozen:
        head = build_sharded_head(frozen, student.vocab_size, training, device)
        width = head.weight.shape[1]
    return Learner(
        student=student,
        optimizer=build_optimizer(student, optimizer),
        text=text,
        device=device,
        objective=objective,
        advantage=advantage,
        knobs=optimizer,
        training=training,
        work=work_of(student.model),
        frozen=beside,
        head=head,
        events=events_of(text, student, beside, device) if objective.needs.across else None,
        no_signals=empty_signals(width) if signal or objective.needs.written else None,
    )


def events_of(
    text: StudentText, student: Student, frozen: Frozen | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the ids that both heads have rows of."""
    assert frozen and text.aligner
    own_V, other_W = map(torch.from_numpy, events(text.aligner.own, text.aligner.other))
    return own_V[: student.vocab_size].to(device), other_W[: frozen.vocab_size].to(device)


def build_optimizer(student: Student, knobs: OptimizerKnobs) -> torch.optim.Optimizer:
    """AdamW in which only matrices decay."""
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": knobs.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    shared = {"lr": knobs.learning_rate, "betas": (knobs.beta1, knobs.beta2), "eps": knobs.eps}
    groups = [group for group in groups if group["params"]]
    if knobs.kind == "adamw8bit":
        return importlib.import_module("torchao.optim").AdamW8bit(groups, **shared)
    return torch.optim.AdamW(groups, fused=True, **shared)
