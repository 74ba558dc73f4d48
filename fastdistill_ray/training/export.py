"""A trained student -> a Hugging Face folder that transformers and vLLM load."""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch.distributed as dist
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers.core_model_loading import revert_weight_conversion

from fastdistill_ray.storage.folders import writable_folder
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.weights import INDEX
from fastdistill_ray.training.student import Student

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")
ADAPTER = "adapter"  # in an exported folder: the adapter alone, as peft loads it
BRIDGE = {"bridge.weight"}  # of a student in training: no model has it
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class Chat(NamedTuple):
    """How an exported student is spoken to, where its source does not say so itself."""

    template: str = ""  # "": the source's own
    end_id: int | None = None  # token with which a turn ends


AS_SOURCE = Chat()


def export_student(student: Student, source: str, out: Place, chat: Chat = AS_SOURCE) -> None:
    """Rank 0 writes full bf16 weights beside the source's own config, tokenizer and template.

    Names and tensors are the source's: what was not trained, buffers and parts of other modalities,
    is there as it was. An adapter is merged, and beside that in a folder of its own. The folder
    appears whole or not at all.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(student, options=options)
    if dist.get_rank() == 0:
        write_student(student, state, source, out, chat)


def write_student(
    student: Student, state: Mapping[str, Any], source: str, out: Place, chat: Chat = AS_SOURCE
) -> None:
    """As `export_student`, of the student's whole `state`."""
    # The tied head is a second name of one parameter; loaders want the tensor once.
    names = {name for name, _ in student.named_parameters()} & set(state)
    names -= BRIDGE
    parts = {name.removeprefix("model."): cast(Tensor, state[name]).float() for name in names}
    weights = merge_adapter(parts, student.adapter_scale)
    halves = {name: weight.bfloat16() for name, weight in weights.items()}
    buffers = {name for name, _ in student.named_buffers()} & set(state)
    halves |= {name.removeprefix("model."): cast(Tensor, state[name]) for name in buffers}
    tied = {name.removeprefix("model.") for name in set(state) - names - buffers - BRIDGE}
    whole = as_in_source(student, halves, tied, Path(source))
    with writable_folder(out) as folder:
        save_torch_state_dict(whole, folder)
        _copy_beside_weights(Path(source), folder, chat)
        if student.adapter_scale:
            _save_adapter(student, parts, source, folder / ADAPTER)


def as_in_source(
    student: Student, tensors: dict[str, Tensor], tied: set[str], source: Path
) -> dict[str, Tensor]:
    """Under the names of the source's files, with all else that these hold; ValueError where a name
    is none of theirs, which loaders would leave out without a word.

    transformers renames and fuses tensors when it loads some families. `tied`: further names of
    tensors that are there.
    """
    found = {
        name: _of_its_own(tensor)
        for name, tensor in revert_weight_conversion(student.model, tensors).items()
    }
    buffers = {name.removeprefix("model.") for name, _ in student.named_buffers()}
    files = _files_of_tensors(source)
    if not files:  # older formats
        return found
    if unknown := sorted(set(found) - set(files)):
        raise ValueError(f"{source} has no {', '.join(unknown[:3])}, {len(unknown)} in all")
    for name, file in files.items():
        if name in tied or (name in found and name not in buffers):
            continue
        with safe_open(file, framework="pt") as opened:
            stored = opened.get_tensor(name)
        found[name] = found[name].to(stored.dtype) if name in found else stored
    return found


def tensor_names(folder: Path) -> set[str]:
    """Of the tensors in a folder's safetensors files, or in their index where these are not there;
    none where it has older formats."""
    files, index = _files_of_tensors(folder), folder / INDEX
    if not files and index.is_file():
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    return set(files)


def _files_of_tensors(folder: Path) -> dict[str, Path]:
    """Name -> the file that holds it."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
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
        if ".lora_" in name:
            continue
        stem, is_base, leaf = name.partition(".base_layer.")
        if is_base and leaf == "weight":
            down = weights[f"{stem}.lora_A.default.weight"]
            up = weights[f"{stem}.lora_B.default.weight"]
            tensor = tensor + scale * (up @ down)
        merged[f"{stem}.{leaf}" if is_base else name] = tensor
    return merged


def _save_adapter(student: Student, parts: dict[str, Tensor], source: str, out: Path) -> None:
    """In peft's layout; its base is the folder the student was loaded from."""
    out.mkdir()
    adapter = {
        f"base_model.model.{name.replace('.default.', '.')}": tensor.contiguous()
        for name, tensor in parts.items()
        if ".lora_" in name
    }
    save_file(adapter, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config: Any = copy.copy(student.model.peft_config["default"])
    config.base_model_name_or_path, config.task_type = source, "CAUSAL_LM"
    config.inference_mode = True
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
