"""A student's own trial: a tiny random copy of it goes through all that training does to it.

Run before anything is paid for: what transformers computes of a family, and how it names tensors,
is its own; what this project computes and writes is held against that, and refused where it
differs.
"""

import copy
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import load_config, quiet_transformers
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.export import tensor_names, write_student
from fastdistill_ray.training.knobs import LoraKnobs
from fastdistill_ray.training.packing import packed_batch, plain_batch
from fastdistill_ray.training.packing_check import probe_group
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
VOCABULARY, WINDOW, WIDTH, EXPERTS, CHOSEN = 512, 16, 64, 4, 2  # of a copy; tokens see so many
SPECIAL = 8  # ids below are special tokens of a copy, and in no text
MOST_HEADS, MOST_PARAMETERS = 4, 300_000_000
# Added to matrices and to all else, norms, biases and sinks, so that none is without effect.
NOISE_OF_MATRICES, NOISE = 0.05, 0.5
WIDTHS = "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"
NUM_EXPERTS = "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"
NUM_CHOSEN = "num_experts_per_tok", "top_k_experts", "moe_k"
SINGLE = "n_group", "topk_group", "n_groups", "mamba_n_groups"
# Of recurrent layers; their inner width is `mamba_expand` times the hidden size.
STATES = "ssm_state_size", "mamba_d_state", "mamba_chunk_size", "chunk_size"
INNER_HEADS = (
    *(("mamba_n_heads", "mamba_d_head"), ("mamba_num_heads", "mamba_head_dim")),
    ("num_heads", "head_dim"),
)
INNER_WIDTH = "mamba_d_ssm"
LINEAR = (
    *("linear_num_key_heads", "linear_num_value_heads"),
    *("linear_key_head_dim", "linear_value_head_dim"),
)
VOCABULARIES = "vocab_size", "vocab_size_per_layer_input"
WINDOWS = "sliding_window", "attention_chunk_size"
DEPTHS = "num_hidden_layers", "depth"
SHARED = "num_kv_shared_layers"
# Of layers, one in so many or all after so many are of another kind.
PERIODS = (
    *("first_k_dense_replace", "sliding_window_pattern", "full_attention_interval"),
    *("decoder_sparse_step", "interleave_moe_layer_step"),
)
TOKEN_ID = re.compile(r"token_(id|index)$")


class Errors(NamedTuple):
    """Of a copy against transformers' own forward, both in float64; parts of the largest."""

    logprob: float
    gradient: float  # of the worst tensor

    def are_within(self, allowed: "Errors") -> bool:
        return all(one <= most for one, most in zip(self, allowed, strict=True))  # NaN is not


TOLERANCE = Errors(1e-6, 1e-5)
NOISE_FACTOR, MOST = 10.0, Errors(1e-4, 1e-2)


def check_student(
    field: str, folder: str, *, shared_prompt: bool, lora: LoraKnobs, on_gpu: bool
) -> Errors:
    """Log-probabilities, loss, gradients and export of a copy are those of transformers itself;
    UserError naming `field` where one is not.

    `folder`: the student's; of its weights only the names are read.
    """
    config = load_config(folder)
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"{field}: its weights are quantised ({config.quantization_config}), which cannot be "
            "trained; take the model's own weights"
        )
    with tempfile.TemporaryDirectory() as work, quiet_transformers():
        source = Path(work) / "source"
        try:
            _write_copy(config, source)
        except UserError as error:
            raise UserError(f"{field}: {error}") from error
        _check_names(field, folder, source)
        try:
            return _try(field, source, shared_prompt=shared_prompt, lora=lora, on_gpu=on_gpu)
        except UserError as error:
            if not shared_prompt or str(error).startswith("training."):
                raise
            _try(field, source, shared_prompt=False, lora=lora, on_gpu=on_gpu)
            remedy = "; set training.shared_prompt: false"
            raise UserError(f"{str(error).removesuffix(remedy)}{remedy}") from error


def _try(field: str, source: Path, *, shared_prompt: bool, lora: LoraKnobs, on_gpu: bool) -> Errors:
    config = load_config(str(source))
    kind, vocabulary = config.model_type, config.get_text_config().vocab_size
    layout = "packed groups" if shared_prompt else "padded rows"
    try:
        if shared_prompt and on_gpu:
            AutoModelForCausalLM.from_config(config, attn_implementation="flex_attention")
        student = load_student(
            str(source), vocab_size=vocabulary, device=CPU, shared_prompt=shared_prompt, lora=lora
        ).eval()  # an adapter's dropout would differ
        decoder_blocks(student)
        student.double().model.config.get_text_config()._experts_implementation = "eager"
        _move(student)
        exact = _exact(source, lora)
        exact.load_state_dict(student.model.state_dict())
        errors = _errors(student, exact, shared_prompt)
    except UserError as error:
        is_of_a_field = str(error).startswith("training.")
        where = "" if is_of_a_field else f"{field}: {kind} on {layout}: "
        raise UserError(f"{where}{error}") from error
    except Exception as error:  # whatever another's code raises
        raise UserError(f"{field}: {kind} cannot be trained on {layout}: {_line(error)}") from error
    try:
        _check_export(student, exact, source)
    except Exception as error:  # whatever another's code raises
        raise UserError(f"{field}: {kind} cannot be exported: {_line(error)}") from error
    return errors


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


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
    vocabulary = student.vocab_size
    groups = [probe_group(vocabulary, SPECIAL), probe_group(vocabulary, SPECIAL, seed=1)]
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


def _write_copy(config: PreTrainedConfig, out: Path) -> None:
    """Random weights and buffers in bf16, as checkpoints are; the smallest copy that is a model:
    families differ in which sizes go together."""
    kind, reasons = config.model_type, []
    for is_narrow, is_shallow in ((True, True), (True, False), (False, True)):
        try:
            small = _small(config, is_narrow=is_narrow, is_shallow=is_shallow)
            with torch.device("meta"):
                size = AutoModelForCausalLM.from_config(small).num_parameters()
            if size > MOST_PARAMETERS:
                raise ValueError(f"a copy of it has {size:,} parameters")
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = AutoModelForCausalLM.from_config(small, dtype=torch.bfloat16)
                with torch.no_grad():
                    for tensor in _own_tensors(model):
                        noise = NOISE_OF_MATRICES if tensor.ndim > 1 else NOISE
                        tensor.add_(noise * torch.randn(tensor.shape).to(tensor.dtype))
                    model(input_ids=torch.arange(SPECIAL, SPECIAL + 4)[None], use_cache=False)
            model.save_pretrained(out)
            load_config(str(out))
            return
        except Exception as error:  # noqa: BLE001  sizes that do not go together, of any family
            reasons.append(_line(error))
    raise UserError(f"no small copy of {kind} can be made to try it: {reasons[0]}")


def _own_tensors(model: PreTrainedModel) -> Iterator[Tensor]:
    """Parameters, and the buffers that a checkpoint holds."""
    kept = set(model.state_dict())
    yield from model.parameters()
    for name, buffer in model.named_buffers():
        if name in kept and buffer.is_floating_point():
            yield buffer


def _small(config: PreTrainedConfig, *, is_narrow: bool, is_shallow: bool) -> PreTrainedConfig:
    small = copy.deepcopy(config)
    text = small.get_text_config()
    for part in {id(one): one for one in (small, text)}.values():
        _shrink_ids(part)
    _shrink_parts(text)
    if is_narrow:
        _shrink_heads(text)
    if is_shallow:
        depth = _depth(text)
        if _size(text, SHARED):  # the last layers take keys and values of those before
            depth *= 2
            setattr(text, SHARED, depth // 2)
        _shrink_depth(text, depth)
    for name in small.sub_configs:
        other = getattr(small, name, None)
        if isinstance(other, PreTrainedConfig) and other is not text:
            _shrink_depth(other, 1)
    return small


def _shrink_ids(part: PreTrainedConfig) -> None:
    ids = iter(range(3, SPECIAL))
    for name, value in list(vars(part).items()):
        if name in ("bos_token_id", "eos_token_id"):
            setattr(part, name, 1 if name == "bos_token_id" else 2)
        elif name == "pad_token_id":
            part.pad_token_id = 0
        elif TOKEN_ID.search(name) and isinstance(value, int):
            setattr(part, name, next(ids, SPECIAL - 1))


def _shrink_parts(text: PreTrainedConfig) -> None:
    most = dict.fromkeys(VOCABULARIES, VOCABULARY) | dict.fromkeys(WINDOWS, WINDOW)
    most |= dict.fromkeys(WIDTHS, WIDTH) | dict.fromkeys(NUM_EXPERTS, EXPERTS)
    most |= dict.fromkeys(NUM_CHOSEN, CHOSEN) | dict.fromkeys(SINGLE, 1)
    most |= dict.fromkeys(STATES, WINDOW)
    for name, size in most.items():
        if value := _size(text, name):
            setattr(text, name, min(value, size))
        elif isinstance(vars(text).get(name), list):
            setattr(text, name, [min(one, size) for one in vars(text)[name]])


def _shrink_heads(text: PreTrainedConfig) -> None:
    if heads := _size(text, "num_attention_heads"):
        key_heads = _size(text, "num_key_value_heads") or heads
        head_dim = _size(text, "head_dim") or text.hidden_size // heads
        share = min(heads // key_heads, 2)
        few = min(key_heads, MOST_HEADS // share)
        text.num_attention_heads = few * share
        if _size(text, "num_key_value_heads"):
            text.num_key_value_heads = few
        text.hidden_size = text.num_attention_heads * head_dim
    elif _size(text, "hidden_size"):  # recurrent layers alone
        text.hidden_size = MOST_HEADS * WIDTH
    key_heads, value_heads, *dims = (_size(text, name) for name in LINEAR)
    if key_heads and value_heads and all(dims):
        sizes = (2, 2 * min(value_heads // key_heads, 2), WINDOW, WINDOW)
        for name, size in zip(LINEAR, sizes, strict=True):
            setattr(text, name, size)
    inner = (_size(text, "mamba_expand") or _size(text, "expand") or 2) * text.hidden_size
    for name, dim in INNER_HEADS:
        if _size(text, name) and _size(text, dim):
            setattr(text, dim, WIDTH)
            setattr(text, name, inner // WIDTH)
    if _size(text, INNER_WIDTH):
        setattr(text, INNER_WIDTH, inner)


def _size(text: PreTrainedConfig, name: str) -> int | None:
    """None where there is none, or one a layer."""
    try:
        value = getattr(text, name, None)
    except Exception:  # noqa: BLE001  transformers' own kind, where layers differ
        value = vars(text).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _depth(text: PreTrainedConfig) -> int:
    """Layers of which every kind is one."""
    depths = [2]
    for name, value in vars(text).items():
        is_counted = name == "layer_types" or not _size(text, SHARED)
        if is_counted and isinstance(value, list) and len(value) == text.num_hidden_layers:
            depths.append(max(map(value.index, value)) + 1)
    for name in PERIODS:
        if period := _size(text, name):
            depths.append(period + 1)
    return min(max(depths), text.num_hidden_layers)


def _shrink_depth(part: PreTrainedConfig, depth: int) -> None:
    layers = next((getattr(part, name) for name in DEPTHS if hasattr(part, name)), None)
    for name, value in list(vars(part).items()):
        if isinstance(value, list) and len(value) == layers:
            setattr(part, name, value[:depth])
    for name in DEPTHS:
        if hasattr(part, name):
            setattr(part, name, min(depth, getattr(part, name)))
    if part.is_heterogeneous:  # or it would be written with layers that are gone
        part.serialize_explicit_per_layer_config = True
