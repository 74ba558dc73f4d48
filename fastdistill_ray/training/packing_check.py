"""Whether packed groups are computed as the model's own padded rows are."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import load_config, quiet_transformers
from fastdistill_ray.training.attention import (
    packed_attention,
    register_grouped,
    row_multiple,
    short_window,
)
from fastdistill_ray.training.knobs import LoraKnobs
from fastdistill_ray.training.logit_map import factor_place, factors_of, logit_factor
from fastdistill_ray.training.packing import TrainCompletion, TrainGroup, packed_batch, plain_batch
from fastdistill_ray.training.small_copy import SPECIAL, small_copy
from fastdistill_ray.training.student import (
    Student,
    plain_attention,
    prepare_model,
    to_device,
    with_attention,
    without_dropout,
)

TOLERANCE = 2e-3  # nats; families that honour the mask stay below 1e-5


def probe_group(vocab_size: int, first: int = 0, seed: int = 0) -> TrainGroup:
    """A prompt and three completions of seeded random tokens from `first` on, the same on every
    rank."""
    random = np.random.default_rng(seed)
    prompt, *completions = (random.integers(first, vocab_size, size) for size in (24, 16, 9, 20))
    return TrainGroup("probe", prompt, [TrainCompletion(ids, 1.0, 0.0) for ids in completions])


def check_small_copy(folder: str, device: torch.device) -> None:
    """As `check_packed_attention`, of a small random copy of the student, which every rank holds
    whole."""
    register_grouped()
    student = _small_student(folder, packed_attention(device), device)
    student.logit_factor = logit_factor(student, device)
    check_packed_attention(student, probe_group(student.vocab_size, SPECIAL), device)


def factor_of(folder: str) -> float:
    """Of a model's logits, found out on a small copy: none of its weights is read."""
    config, device = load_config(folder), torch.device("cpu")
    student = _small_student(folder, plain_attention(config), device)
    return factors_of(config)[factor_place(student, device)]


def _small_student(folder: str, attention: str, device: torch.device) -> Student:
    with quiet_transformers():
        copy = small_copy(without_dropout(load_config(folder)))
        model = with_attention(
            lambda name: AutoModelForCausalLM.from_config(
                copy.config, dtype=torch.float32, attn_implementation=name
            ),
            copy.config.model_type,
            attention,
        )
    model.load_state_dict(copy.state_dict())
    vocabulary = copy.config.get_text_config().vocab_size
    return Student(prepare_model(model, LoraKnobs()), vocabulary).to(device)


def check_packed_attention(student: Student, group: TrainGroup, device: torch.device) -> float:
    """Packed log-probabilities against the model's own on padded rows; the largest difference.

    In float32, whatever it is trained in: the noise of bfloat16 hides a mask that is ignored.
    UserError when they are not the same function, in which case packing would train nonsense.
    """
    packed = to_device(packed_batch([group], row_multiple(device)).inputs, device)
    plain = to_device(plain_batch([group], mask_prompt=True).inputs, device)
    config = student.model.config.get_text_config()
    attention, kind = config._attn_implementation, config.model_type
    remedy = "set training.shared_prompt: false"
    student.eval()  # an adapter's dropout would differ
    try:
        with torch.no_grad(), short_window(student.model, 16):
            logprob = student(packed).logprob
            config._attn_implementation = (
                "eager"  # what every architecture defines itself: the reference
            )
            difference = (logprob - student.reference_logprob(plain)).abs().max()
    except (
        TypeError,
        AttributeError,
        KeyError,
        ValueError,
    ) as error:  # other arguments than ours, or no mask
        raise UserError(
            f"student {kind} cannot be given packed groups: {error}; {remedy}"
        ) from error
    finally:
        config._attn_implementation = attention
        student.train()
    if not (difference <= TOLERANCE):
        raise UserError(
            f"student {kind}: log-probabilities of packed and padded completions differ by "
            f"{difference:.3g} (allowed: {TOLERANCE}); this architecture does not honour the "
            f"packed mask: {remedy}"
        )
    return float(difference)
