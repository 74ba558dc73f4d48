"""Whether a model's weights are whole, from their headers: no tensor is read."""

import json
from pathlib import Path
from typing import Any

from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.given import refuse_pointer

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def check_weights(folder: Path) -> None:
    """UserError names the file that is missing, cut off or none. Older .bin files are taken as
    they are."""
    for file in weight_files(folder):
        _check_file(file)


def loaded_bytes(folder: Path, dtype: str) -> int:
    """Of the weights in an engine that computes in `dtype`: what is stored in floats of 2 or 4
    bytes is converted, other formats stay as they are."""
    each = {"float32": 4}.get(dtype, 2)
    total = 0
    for file in weight_files(folder):
        header, _ = _header(file)
        for tensor in header.values():
            first, last = tensor.get("data_offsets", (0, 0))
            size = {"F32": 4, "F16": 2, "BF16": 2}.get(tensor.get("dtype"), 0)
            total += (last - first) // size * each if size else last - first
    return total or sum(file.stat().st_size for file in folder.glob("*.bin"))


def stored_bytes(file: Path) -> int:
    """Of its tensors."""
    tensors, _ = _header(file)
    return sum(last - first for first, last in (one["data_offsets"] for one in tensors.values()))


def weight_files(folder: Path) -> list[Path]:
    """UserError where there are none."""
    if (folder / INDEX).is_file():
        try:
            shards = set(
                json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / INDEX}: not an index of weights; fetch it again") from error
        return [folder / name for name in sorted(shards)]
    files = [folder / SINGLE] if (folder / SINGLE).is_file() else []
    files = files or sorted(folder.glob("*.safetensors"))
    if not files and not list(folder.glob("*.bin")):
        raise UserError(f"{folder / SINGLE}: no such file, the model has no weights")
    return files


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """(tensors by name, bytes that the file must have)"""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise UserError(f"{file}: cut off or no safetensors file, {size} bytes; fetch it again")
        try:
            header = json.loads(stream.read(length))
            tensors = {name: one for name, one in header.items() if name[:2] != "__"}
            ends = [one["data_offsets"][1] for one in tensors.values()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: no safetensors file, its header is torn") from error
    return tensors, 8 + length + max(ends, default=0)


def _check_file(file: Path) -> None:
    """8 bytes with the header's length, the header as JSON, and tensors to the end of the file."""
    if not file.is_file():
        raise UserError(f"{file}: no such file, the model's index names it; fetch it again")
    refuse_pointer(file)
    _, whole = _header(file)
    size = file.stat().st_size
    if size != whole:
        raise UserError(f"{file}: {size:,} of {whole:,} bytes are there; fetch it again")
