"""A student's own trial: a tiny random copy of it goes through all that training does to it.

Run before anything is paid for: what transformers computes of a family, and how it names tensors,
is its own; what this project computes and writes is held against that, and refused where it
differs.
"""

import contextlib
import copy
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import load_config, quiet_transformers
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.export import tensor_names, write_student
from fastdistill_ray.training.knobs import LoraKnobs
from fastdistill_ray.training.packing import PADDING, TrainGroup, packed_batch, plain_batch
from fastdistill_ray.training.packing_check import probe_group
from fastdistill_ray.training.router import LOSS
from fastdistill_ray.training.small_copy import (
    NOISE_OF_MATRICES,
    SPECIAL,
    one_line,
    small_copy,
)
from fastdistill_ray.training.student import (
    Student,
    decoder_blocks,
    load_student,
    plain_attention,
    prepare_model,
    to_device,
    with_attention,
)

CPU = torch.device("cpu")


class Errors(NamedTuple):
    """Of a copy against transformers' own forward, both in float64; parts of the largest."""

    logprob: float
    gradient: float  # of the worst tensor

    def are_within(self, allowed: "Errors") -> bool:
        return all(one <= most for one, most in zip(self, allowed, strict=True))  # NaN is not


TOLERANCE = Errors(1e-6, 1e-5)
TOLERANCE_OF_ROUTER = Errors(1e-5, 1e-4)
NOISE_FACTOR, MOST = 10.0, Errors(1e-4, 1e-2)


def check_student(
    field: str,
    folder: str,
    *,
    shared_prompt: bool,
    trains_router: bool,
    lora: LoraKnobs,
    on_gpu: bool,
) -> Errors:
    """Log-probabilities, losses, gradients and export of a copy are those of transformers itself;
    UserError naming `field` where one is not.

    `folder`: the student's; of its weights only the names are read.
    """
    config = load_config(folder)
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"{field}: its weights are quantised ({config.quantization_config}), which cannot be "
            "trained; take the model's own weights"
        )
    with tempfile.TemporaryDirectory() as work, quiet_transformers(), _one_thread():
        source = Path(work) / "source"
        try:
            small_copy(config, source)
        except UserError as error:
            raise UserError(f"{field}: {error}") from error
        _check_names(field, folder, source)
        options = {"trains_router": trains_router, "lora": lora, "on_gpu": on_gpu}
        try:
            return _try(field, source, shared_prompt=shared_prompt, **options)
        except UserError as error:
            if not shared_prompt or str(error).startswith("training."):
                raise
            _try(field, source, shared_prompt=False, **options)
            remedy = "; set training.shared_prompt: false"
            raise UserError(f"{str(error).removesuffix(remedy)}{remedy}") from error


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Many threads on small tensors wait for each other, long where the machine is busy."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _try(
    field: str,
    source: Path,
    *,
    shared_prompt: bool,
    trains_router: bool,
    lora: LoraKnobs,
    on_gpu: bool,
) -> Errors:
    config = load_config(str(source))
    kind, vocabulary = config.model_type, config.get_text_config().vocab_size
    layout = "packed groups" if shared_prompt else "padded rows"
    try:
        if shared_prompt and on_gpu:
            AutoModelForCausalLM.from_config(config, attn_implementation="flex_attention")
        student = load_student(
            str(source),
            vocab_size=vocabulary,
            device=CPU,
            shared_prompt=shared_prompt,
            trains_router=trains_router,
            lora=lora,
        ).eval()  # an adapter's dropout would differ
        decoder_blocks(student)
        _check_loading(student, source)
        student.double().model.config.get_text_config()._experts_implementation = "eager"
        _move(student)
        exact = _exact(source, lora)
        exact.load_state_dict(student.model.state_dict())
        errors = _errors(student, exact, shared_prompt)
        if student.router_coefficient:
            _check_router(student, exact, shared_prompt)
    except UserError as error:
        is_of_a_field = str(error).startswith("training.")
        where = "" if is_of_a_field else f"{field}: {kind} on {layout}: "
        raise UserError(f"{where}{error}") from error
    except Exception as error:  # whatever another's code raises
        raise UserError(
            f"{field}: {kind} cannot be trained on {layout}: {one_line(error)}"
        ) from error
    try:
        _check_export(student, exact, source)
    except Exception as error:  # whatever another's code raises
        raise UserError(f"{field}: {kind} cannot be exported: {one_line(error)}") from error
    return errors


def _check_loading(student: Student, source: Path) -> None:
    """Every parameter and buffer is what transformers reads, to the bit; UserError where not."""
    kind = student.model.config.model_type
    read = with_attention(
        lambda name: AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, attn_implementation=name
        ),
        kind,
        plain_attention(student.model.config),
    )
    found = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in [*student.model.state_dict().items(), *student.model.named_buffers()]
    }
    for name, tensor in [*read.state_dict().items(), *read.named_buffers()]:
        if name not in found or not torch.equal(found[name], tensor):
            raise UserError(f"{name} is not read from its files as transformers reads it")


def _exact(folder: Path, lora: LoraKnobs) -> PreTrainedModel:
    """transformers' own model in float64, with experts as the family defines them."""
    config = load_config(str(folder))
    model = with_attention(
        lambda name: AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation=name, experts_implementation="eager"
        ),
        config.model_type,
        plain_attention(config),
    )
    return prepare_model(model, lora).eval()


def _move(student: Student) -> None:
    """What is trained, as after some steps; bf16 holds it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                noise = NOISE_OF_MATRICES * torch.randn(parameter.shape, generator=generator)
                parameter.copy_((parameter + noise).bfloat16())


def _errors(student: Student, exact: PreTrainedModel, shared_prompt: bool) -> Errors:
    """Of two groups whose tokens are weighted differently."""
    vocabulary, groups = student.vocab_size, _two_groups(student)
    plain = to_device(plain_batch(groups, mask_prompt=True).inputs, CPU)
    given = to_device(packed_batch(groups, 1).inputs, CPU) if shared_prompt else plain
    exact_K, wanted = _gradients(exact, Student(exact, vocabulary).reference_logprob(plain))
    found = _compared(exact_K, wanted, *_gradients(student.model, student(given).logprob))
    if found.are_within(TOLERANCE):
        return found
    # Parts that families compute in float32 round otherwise for the least of differences.
    shaken = copy.deepcopy(exact)
    _shake(shaken)
    own = Student(shaken, vocabulary).reference_logprob(plain)
    noise = _compared(exact_K, wanted, *_gradients(shaken, own))
    near = (min(NOISE_FACTOR * one, most) for one, most in zip(noise, MOST, strict=True))
    if not found.are_within(Errors(*near)):
        raise UserError(
            "this is not what transformers computes, log-probabilities differ by "
            f"{found.logprob:.1g} of the largest, a gradient by {found.gradient:.1g}"
        )
    return found


def _check_router(student: Student, exact: PreTrainedModel, shared_prompt: bool) -> None:
    """The loss of the routers' choices and its gradients; UserError where one is not as it is by
    transformers' own function, which sums in float32."""
    groups = _two_groups(student)
    rows = plain_batch(groups, mask_prompt=True).inputs
    given = to_device(packed_batch(groups, 1).inputs if shared_prompt else rows, CPU)
    mask_RL = torch.from_numpy(rows.group != PADDING)
    asked = {"input_ids": torch.from_numpy(rows.input_ids), "attention_mask": mask_RL.long()}
    asked |= {"use_cache": False, "output_router_logits": True}
    if shared_prompt:  # a prompt counts with the first of its completions
        row = 0
        for group in groups:
            mask_RL[row + 1 : row + len(group.completions), : len(group.prompt_ids)] = False
            row += len(group.completions)
        logits = exact.get_decoder()(**asked).router_logits
        loss_of = getattr(sys.modules[type(exact).__module__], LOSS)
        wanted = loss_of(logits, exact.num_experts, exact.num_experts_per_tok, mask_RL)
    else:
        wanted = exact(**asked).aux_loss
    expected = _gradients(exact, wanted[None])
    found = _compared(
        *expected, *_gradients(student.model, cast(Tensor, student(given).router)[None])
    )
    if not found.are_within(TOLERANCE_OF_ROUTER):
        raise UserError(
            f"the loss of its router's choices is not what transformers computes, it differs by "
            f"{found.logprob:.1g} of itself, a gradient by {found.gradient:.1g}; set "
            "training.router_loss: false"
        )


def _two_groups(student: Student) -> list[TrainGroup]:
    return [probe_group(student.vocab_size, SPECIAL, seed=seed) for seed in range(2)]


def _shake(model: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            draw = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.mul_(1 + 1e-14 * draw)


def _gradients(model: PreTrainedModel, logprob_K: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    weights_K = torch.linspace(-0.5, 1.5, len(logprob_K), dtype=torch.float64)
    model.zero_grad()
    (logprob_K.double() * weights_K).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    found = {name: gradient for name, gradient in gradients.items() if gradient is not None}
    return logprob_K.detach(), found


def _compared(
    exact_K: Tensor, wanted: dict[str, Tensor], own_K: Tensor, got: dict[str, Tensor]
) -> Errors:
    largest = max(gradient.abs().max().item() for gradient in wanted.values())
    worst = 0.0
    for name, gradient in wanted.items():
        difference = got[name].double() - gradient if name in got else gradient
        # A gradient that is zero but for rounding is none to compare with.
        scale = gradient.abs().max().item() + 1e-4 * largest
        worst = max(worst, difference.abs().max().item() / scale)
    return Errors(((own_K - exact_K).abs().max() / exact_K.abs().max()).item(), worst)


def _check_export(student: Student, exact: PreTrainedModel, source: Path) -> None:
    """transformers finds in it every tensor, as trained and merged by peft, but for the rounding to
    bf16; ValueError where not."""
    out = source.parent / f"out-{uuid.uuid4().hex}"
    write_student(student, student.state_dict(), str(source), Place(out))
    before, after = tensor_names(source), tensor_names(out)
    if before != after:
        missing, more = sorted(before - after), sorted(after - before)
        raise ValueError(f"not the source's tensors: without {missing[:3]}, with {more[:3]}")
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float64, output_loading_info=True
    )
    reloaded, loading = loaded
    if lost := [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]:
        raise ValueError(f"transformers does not find {lost[:3]} in it, or does not know them")
    for module in exact.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    expected = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in exact.state_dict().items()
        if ".lora_" not in name
    }
    for name, tensor in reloaded.state_dict().items():
        if not torch.allclose(tensor, expected[name].to(tensor.dtype), rtol=2**-8, atol=1e-7):
            raise ValueError(f"{name} is not what was trained")


def _check_names(field: str, folder: str, source: Path) -> None:
    """The tensors of the student's files are named as its class names them, whatever the layer."""
    known = {_any_layer(name) for name in tensor_names(Path(folder))}
    written = {_any_layer(name) for name in tensor_names(source)}
    if known and (unknown := sorted(written - known)):
        raise UserError(
            f"{field}: its files have no tensor {unknown[0]} (and {len(unknown) - 1} others) that "
            "transformers would write, so an export could not be loaded as it is; save it anew "
            "with transformers' save_pretrained"
        )


def _any_layer(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".N", name)
