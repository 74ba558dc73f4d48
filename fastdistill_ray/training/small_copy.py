"""A small random copy of a model, of its own family and with every kind of layer it has."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import NUM_CHOSEN, NUM_EXPERTS, load_config

VOCABULARY, WINDOW, WIDTH, EXPERTS, CHOSEN = 512, 16, 64, 4, 2  # of a copy; tokens see so many
SPECIAL = 8  # ids below are special tokens of a copy, and in no text
MOST_HEADS, MOST_PARAMETERS = 4, 300_000_000
# Added to matrices and to all else, norms, biases and sinks, so that none is without effect.
NOISE_OF_MATRICES, NOISE = 0.05, 0.5
WIDTHS = "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"
SINGLE = "n_group", "topk_group", "n_groups", "mamba_n_groups"
# Of recurrent layers; their inner width is `mamba_expand` times the hidden size.
STATES = "ssm_state_size", "mamba_d_state", "mamba_chunk_size", "chunk_size"
INNER_HEADS = (("mamba_n_heads", "mamba_d_head"), ("mamba_num_heads", "mamba_head_dim"))
RECURRENT_HEADS = ("num_heads", "head_dim")  # of models without attention
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


def small_copy(config: PreTrainedConfig, out: Path | None = None) -> PreTrainedModel:
    """Random weights and buffers in bf16, as checkpoints are; the smallest copy that is a model:
    families differ in which sizes go together. Where `out` is given it is written there, which
    transformers does on the first rank alone."""
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
            if out:
                model.save_pretrained(out)
                load_config(str(out))
            return model
        except Exception as error:  # noqa: BLE001  sizes that do not go together, of any family
            reasons.append(one_line(error))
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
    inner_heads = INNER_HEADS
    if heads := _size(text, "num_attention_heads"):
        key_heads = _size(text, "num_key_value_heads") or heads
        head_dim = _size(text, "head_dim") or text.hidden_size // heads
        share = min(heads // key_heads, 2)
        few = min(key_heads, MOST_HEADS // share)
        text.num_attention_heads = few * share
        if _size(text, "num_key_value_heads"):
            text.num_key_value_heads = few
        text.hidden_size = text.num_attention_heads * head_dim
    elif _size(text, "hidden_size"):
        text.hidden_size = MOST_HEADS * WIDTH
        inner_heads = (*INNER_HEADS, RECURRENT_HEADS)
    key_heads, value_heads, *dims = (_size(text, name) for name in LINEAR)
    if key_heads and value_heads and all(dims):
        sizes = (2, 2 * min(value_heads // key_heads, 2), WINDOW, WINDOW)
        for name, size in zip(LINEAR, sizes, strict=True):
            setattr(text, name, size)
    inner = (_size(text, "mamba_expand") or _size(text, "expand") or 2) * text.hidden_size
    for name, dim in inner_heads:
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


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
