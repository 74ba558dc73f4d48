"""The weights of a folder -> a student on the meta device: each rank reads its own part alone.

What transformers' `from_pretrained` does, so that tensors are equal to the bit, but the student may
be sharded in between. A tensor that transformers makes of others, as fused experts are, is made
whole on every rank, one at a time, before its part is kept.
"""

from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.initialization import meta_device_safe_creation_ops, no_tie_weights
from transformers.modeling_utils import load_state_dict

from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.weights import weight_files

READ_AT_ONCE = 2**24  # numbers
PREFIX = "model."  # of its names in a student


class Weights(NamedTuple):
    """Where the tensors of a model come from; nothing of them is read yet."""

    stored: dict[str, Any]  # of the files, by their names: what gives rows when indexed
    renamed: dict[str, str]  # a name in the model -> that in the files
    converted: dict[str, WeightConverter]  # by the first name that each makes

    def tensors(self, model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
        """(a name in the model, what gives rows of that tensor when indexed); only once."""
        for name, source in self.renamed.items():
            yield name, self.stored[source]
        for name, converter in self.converted.items():
            made = converter.convert(name, model=model, config=model.config)
            for one, tensor in made.items():
                yield one, tensor[0] if isinstance(tensor, list) else tensor


def empty_model(
    config: PreTrainedConfig, folder: Path, attention: str
) -> tuple[PreTrainedModel, Weights]:
    """A model in float32 on the meta device, but for buffers that no file holds: these have the
    values that the family gives them."""
    with torch.device("meta"), no_tie_weights(), meta_device_safe_creation_ops():
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )
    weights = _find_weights(model, folder)
    found = {*weights.renamed, *weights.converted}
    named = model.state_dict(keep_vars=True)
    buffers = {name for name, tensor in named.items() if not isinstance(tensor, nn.Parameter)}
    for name in set(named) - (buffers - found):
        named[name]._is_hf_initialized = True  # the family leaves these alone
    model._move_missing_keys_from_meta_to_device(buffers - found, None, None, None)
    model._initialize_missing_keys(False)
    model.tie_weights(_not_of_its_own(model, weights), recompute_mapping=False)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, weights


def fill(student: Any, weights: Weights, device: torch.device) -> None:
    """Every tensor of a `Student` that the files hold has its values, or this rank's part of them;
    all others stay. UserError where one is still on meta."""
    tensors, targets = {}, {}
    made: dict[int, Tensor] = {}  # tensors that are tied stay one
    for name, tensor in student.state_dict(keep_vars=True).items():
        target = tensor
        if tensor.is_meta:  # a few families draw some of theirs elsewhere
            target = made.setdefault(id(tensor), _empty_like(tensor, device))
            tensors[name] = target
        targets[name.removeprefix(PREFIX).replace(".base_layer.", ".")] = target
    missing = {id(target): name.removeprefix(PREFIX) for name, target in tensors.items()}
    for name, source in weights.tensors(student.model):
        if name in targets:
            _copy(name, targets[name], source)
            missing.pop(id(targets[name]), None)
    if missing:
        names = sorted(missing.values())
        raise UserError(f"the student's files have no tensor {names[0]}, {len(names)} are missing")
    student.load_state_dict(tensors, strict=False, assign=True)


def fill_head(head: nn.Module, model: PreTrainedModel, weights: Weights, device: Any) -> None:
    """The tensors of a module that has the names of the model's output embedding, or this rank's
    part of them; nothing else of the files is read."""
    own = model.get_output_embeddings()
    names = {
        id(tensor): name
        for name, tensor in model.state_dict(keep_vars=True).items()
        if name in weights.renamed
    }
    tensors = {}
    for name, tensor in head.state_dict(keep_vars=True).items():
        source = names.get(id(getattr(own, name)))
        if source is None:
            raise UserError(f"the files hold no {name} of the head as it is")
        tensors[name] = _empty_like(tensor, device)
        _copy(source, tensors[name], weights.stored[weights.renamed[source]])
    head.load_state_dict(tensors, assign=True)


def _find_weights(model: Any, folder: Path) -> Weights:
    """As transformers names them, whose own steps these are."""
    stored, known = _open(folder), model.state_dict()
    transforms = get_model_conversion_mapping(model)
    renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    weights = Weights(stored, {}, {})
    for key in sorted(stored, key=dot_natural_key):
        prefix = model.base_model_prefix
        name, pattern = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:
            name, pattern = rename_source_key(key, [], [], prefix, known)
        if name not in known:
            continue  # a part of the files that this model has not
        if pattern is None:
            weights.renamed[name] = key
            continue
        one = weights.converted.setdefault(name, deepcopy(by_pattern[pattern]))
        read: Any = partial(_read, stored[key], known[name].dtype)
        one.add_tensor(name, key, pattern, read)
    # An export takes them back.
    model._weight_conversions = [one for one in transforms if one.was_used()]
    return weights


def _open(folder: Path) -> dict[str, Any]:
    """Not mapped into memory: pages that were read would count as the rank's own."""
    stored: dict[str, Any] = {}
    for file in weight_files(folder):
        opened: Any = safe_open(file, framework="pt", backend="pread")
        stored |= {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
    if not stored:
        for file in sorted(folder.glob("pytorch_model*.bin")):
            stored |= load_state_dict(str(file))
    return stored


def _not_of_its_own(model: Any, weights: Weights) -> set[str]:
    """Names without a tensor in the files, or with the same one as the name they are tied to. A
    tensor that is another one stays so, as in transformers, whatever the config says."""
    missing = set(model.state_dict()) - {*weights.renamed, *weights.converted}
    for name, other in list(model.all_tied_weights_keys.items()):
        if {name, other} & missing:
            continue
        sources = (weights.stored[weights.renamed[one]] for one in (name, other))
        if torch.equal(*(source[...] for source in sources)):
            missing.add(name)
        else:
            del model.all_tied_weights_keys[name]
    return missing


def _read(source: Any, dtype: torch.dtype) -> Tensor:
    return source[...].to(dtype)


def _empty_like(tensor: Tensor, device: torch.device) -> Tensor:
    empty = torch.empty_like(tensor.detach(), device=device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _copy(name: str, target: Tensor, source: Any) -> None:
    """This rank's rows, a few at a time: they are stored in another precision."""
    shape = tuple(source.shape if isinstance(source, Tensor) else source.get_shape())
    if shape != tuple(target.shape):
        raise UserError(
            f"the student's files have {name} of shape {list(shape)}, its config.json says "
            f"{list(target.shape)}"
        )
    first, part = 0, target.detach()
    if isinstance(part, DTensor):
        mesh, placements = part.device_mesh, part.placements
        first = compute_local_shape_and_global_offset(part.shape, mesh, placements)[1][0]
        part = part.to_local()
    if not part.ndim:
        part.copy_(source[...])
        return
    rows = max(1, READ_AT_ONCE * len(part) // max(1, part.numel()))
    for start in range(0, len(part), rows):
        piece = part[start : start + rows]
        piece.copy_(source[first + start : first + start + len(piece)])
