"""A trained student -> a Hugging Face folder that transformers and vLLM load."""

import contextlib
import copy
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch.distributed as dist
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import revert_weight_conversion

from fastdistill_ray.storage.folders import writable_folder
from fastdistill_ray.storage.place import Place, sync
from fastdistill_ray.storage.weights import INDEX, SINGLE, stored_bytes, weight_files
from fastdistill_ray.training.student import Student

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
ADAPTER = "adapter"  # in an exported folder: the adapter alone, as peft loads it
SHARED_FROM = 5 * 2**30  # bytes of weights
BLOCK = re.compile(r".*?\.\d+\.")
BRIDGE = {"bridge.weight"}  # of a student in training: no model has it
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class Chat(NamedTuple):
    """How an exported student is spoken to, where its source does not say so itself."""

    template: str = ""  # "": the source's own
    end_id: int | None = None  # token with which a turn ends
    name: str = ""  # of the template, where the source has several


AS_SOURCE = Chat()


def export_student(student: Student, source: str, out: Place, chat: Chat = AS_SOURCE) -> None:
    """All ranks together write full bf16 weights beside the source's own config, tokenizer and
    template.

    Names and tensors are the source's: what was not trained, buffers and parts of other modalities,
    is there as it was. An adapter is merged, and beside that in a folder of its own. The folder
    appears whole or not at all. Weights are gathered block by block: rank 0 holds them all in bf16,
    or, from SHARED_FROM bytes on and in no bucket, each rank those of the blocks that it writes.
    """
    state = get_model_state_dict(student)
    names, rank = Names.of(student, state), dist.get_rank()
    size = 2 * sum(parameter.numel() for parameter in student.parameters())
    writers = dist.get_world_size() if Place(out).is_local and size > SHARED_FROM else 1
    files = _files_of_tensors(Path(source))
    own: dict[str, Tensor] = {}
    adapter: dict[str, Tensor] = {}
    for place, block in enumerate(blocks_of(names)):
        is_mine = place % writers == rank
        parts = gathered(state, block, is_mine=is_mine)
        adapter |= {name: part for name, part in parts.items() if is_of_adapter(name)}
        if is_mine:
            own |= as_in_source(student, parts, names, files)
    with _folder_of_all(out) as folder:
        if 0 < rank < writers:
            _save(own, folder, rank, writers)
        dist.barrier()
        if rank == 0:
            own |= not_trained(tensor_names(folder) | set(own), names, files)
            _save(own, folder, rank, writers)
            if writers > 1:
                _write_index(folder)
            _write_beside(student, adapter, Path(source), folder, chat)


def write_student(
    student: Student, state: Mapping[str, Any], source: str, out: Place, chat: Chat = AS_SOURCE
) -> None:
    """As `export_student`, of the student's whole `state`, by this process alone."""
    names, files = Names.of(student, state), _files_of_tensors(Path(source))
    parts = {name: cast(Tensor, state[name]) for name in names.trained | names.buffers}
    own = as_in_source(student, parts, names, files)
    own |= not_trained(set(own), names, files)
    adapter = {name: part for name, part in parts.items() if is_of_adapter(name)}
    with writable_folder(out) as folder:
        _save(own, folder, 0, 1)
        _write_beside(student, adapter, Path(source), folder, chat)


class Names(NamedTuple):
    """Of the tensors of a student in training, as its state has them."""

    trained: set[str]  # parameters, or an adapter's base
    buffers: set[str]
    tied: set[str]  # further names of tensors that are there: loaders want each once

    @classmethod
    def of(cls, student: Student, state: Mapping[str, Any]) -> "Names":
        trained = {name for name, _ in student.named_parameters()} & set(state) - BRIDGE
        buffers = {name for name, _ in student.named_buffers()} & set(state)
        return cls(trained, buffers, set(state) - trained - buffers - BRIDGE)


def blocks_of(names: Names) -> list[list[str]]:
    """The names in the order of the model, those of one decoder block together: what transformers
    makes one tensor of lies in one block."""
    blocks: dict[str, list[str]] = {}
    for name in sorted(names.trained | names.buffers):
        number = BLOCK.match(name)
        blocks.setdefault(number.group() if number else "", []).append(name)
    return list(blocks.values())


def gathered(state: Mapping[str, Any], names: list[str], *, is_mine: bool) -> dict[str, Tensor]:
    """Those that are this rank's to write, and those of an adapter, whole and on the CPU; all ranks
    call it at once."""
    found = {}
    for name in names:
        tensor = state[name]
        if isinstance(tensor, DTensor):
            computed = cast(DTensor, tensor.to(tensor.device_mesh.device_type))
            tensor = computed.full_tensor()
        if is_mine or is_of_adapter(name):
            found[name] = tensor.cpu()
    return found


def is_of_adapter(name: str) -> bool:
    return ".lora_" in name


def as_in_source(
    student: Student, parts: Mapping[str, Tensor], names: Names, files: Mapping[str, Path]
) -> dict[str, Tensor]:
    """Trained weights in bf16, merged, and buffers, under the names that the source's `files` have;
    ValueError where a name is none of theirs, which loaders would leave out without a word.

    transformers renames and fuses tensors when it loads some families.
    """
    trained = {
        name.removeprefix("model."): part.float()
        for name, part in parts.items()
        if name in names.trained
    }
    merged = merge_adapter(trained, student.adapter_scale)
    halves = {name: weight.bfloat16() for name, weight in merged.items()}
    buffers = {name.removeprefix("model."): parts[name] for name in parts if name in names.buffers}
    found = {
        name: _of_its_own(tensor)
        for name, tensor in revert_weight_conversion(student.model, halves | buffers).items()
    }
    if not files:  # older formats
        return found
    if unknown := sorted(set(found) - set(files)):
        raise ValueError(f"the source has no {', '.join(unknown[:3])}, {len(unknown)} in all")
    for name in buffers.keys() & found.keys():
        found[name] = found[name].to(_stored(files[name], name).dtype)
    return found


def not_trained(written: set[str], names: Names, files: Mapping[str, Path]) -> dict[str, Tensor]:
    """What else the source's files hold."""
    tied = {name.removeprefix("model.") for name in names.tied}
    return {
        name: _stored(file, name)
        for name, file in files.items()
        if name not in tied and name not in written
    }


def _stored(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)


@contextlib.contextmanager
def _folder_of_all(out: Place) -> Iterator[Path]:
    """The folder of rank 0's `writable_folder`, on every rank; rank 0 is the last to write."""
    made = writable_folder(out) if dist.get_rank() == 0 else contextlib.nullcontext(Path())
    with made as folder:
        told = [str(folder)]
        dist.broadcast_object_list(told)
        yield Path(told[0])


def _write_beside(
    student: Student, adapter: Mapping[str, Tensor], source: Path, folder: Path, chat: Chat
) -> None:
    _copy_beside_weights(source, folder, chat)
    if student.adapter_scale:
        _save_adapter(student, adapter, str(source), folder / ADAPTER)


def _save(tensors: dict[str, Tensor], folder: Path, rank: int, writers: int) -> None:
    if writers == 1:
        save_torch_state_dict(tensors, folder)
        return
    pattern = f"model-{rank + 1:05d}-of-{writers:05d}{{suffix}}.safetensors"
    save_torch_state_dict(tensors, folder, filename_pattern=pattern)
    for file in folder.glob(f"model-{rank + 1:05d}-of-*"):
        sync(file)


def _write_index(folder: Path) -> None:
    """One for the files of all ranks in place of theirs."""
    for file in folder.glob("*.index.json"):
        file.unlink()
    files = _files_of_tensors(folder)
    index = {
        "metadata": {"total_size": sum(map(stored_bytes, set(files.values())))},
        "weight_map": {name: file.name for name, file in sorted(files.items())},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def tensor_names(folder: Path) -> set[str]:
    """Of the tensors in a folder's safetensors files, or in their index where these are not there;
    none where it has older formats."""
    files, index = _files_of_tensors(folder), folder / INDEX
    if not files and index.is_file():
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    return set(files)


def _files_of_tensors(folder: Path) -> dict[str, Path]:
    """Name -> the file that holds it, of those that are loaded: a folder may hold its weights a
    second time under other names (Mistral's consolidated.safetensors)."""
    is_told = any((folder / name).is_file() for name in (INDEX, SINGLE))
    files = weight_files(folder) if is_told else sorted(folder.glob("*.safetensors"))
    found = {}
    for file in (one for one in files if one.is_file()):
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    return found


def _of_its_own(tensor: Tensor) -> Tensor:
    """A part of a larger tensor as one by itself: files are written by memory."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def merge_adapter(weights: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """LoRA, arXiv 2106.09685: W + scale * B A, under the names of the model without adapter."""
    merged = {}
    for name, tensor in weights.items():
        if is_of_adapter(name):
            continue
        stem, is_base, leaf = name.partition(".base_layer.")
        if is_base and leaf == "weight":
            down = weights[f"{stem}.lora_A.default.weight"]
            up = weights[f"{stem}.lora_B.default.weight"]
            tensor = tensor + scale * (up @ down)
        merged[f"{stem}.{leaf}" if is_base else name] = tensor
    return merged


def name_base(student: Student, reference: str) -> None:
    """What the exports of a student's adapter say that they are to be laid on."""
    student.model.peft_config["default"].base_model_name_or_path = reference


def _save_adapter(student: Student, parts: Mapping[str, Tensor], source: str, out: Path) -> None:
    """In peft's layout; its base is `source` where `name_base` has told none."""
    out.mkdir()
    adapter = {
        f"base_model.{name.replace('.default.', '.')}": tensor.float().contiguous()
        for name, tensor in parts.items()
    }
    save_file(adapter, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config: Any = copy.copy(student.model.peft_config["default"])
    config.base_model_name_or_path = config.base_model_name_or_path or source
    config.task_type, config.inference_mode = "CAUSAL_LM", True
    config.save_pretrained(str(out))


def _copy_beside_weights(source: Path, out: Path, chat: Chat) -> None:
    """All files but weights; the config says bf16, the generation config holds token ids only."""
    for file in source.iterdir():
        if file.is_file() and not file.name.endswith(WEIGHT_FILES):
            shutil.copy2(file, out / file.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = "bfloat16"
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    file = source / "generation_config.json"
    # vLLM takes sampling defaults from that file, and transformers refuses some sets of them.
    generation = json.loads(file.read_text(encoding="utf-8")) if file.exists() else config
    ids = {name: generation[name] for name in TOKEN_IDS if generation.get(name) is not None}
    ends = ids.get("eos_token_id", [])
    ends = ends if isinstance(ends, list) else [ends]
    if chat.end_id is not None and chat.end_id not in ends:
        ids["eos_token_id"] = [*ends, chat.end_id]
    (out / "generation_config.json").write_text(json.dumps(ids, indent=2), encoding="utf-8")
    if chat.template:
        (out / "chat_template.jinja").write_text(chat.template, encoding="utf-8")
    if chat.name:
        named = out / "additional_chat_templates" / f"{chat.name}.jinja"
        named.parent.mkdir()
        named.write_text(chat.template, encoding="utf-8")
