"""Whether a model's weights are whole, from their headers: no tensor is read."""

import json
from pathlib import Path

from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.pointer import refuse_pointer

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def check_weights(folder: Path) -> None:
    """UserError names the file that is missing, cut off or none. Older .bin files are taken as
    they are."""
    if (folder / INDEX).is_file():
        try:
            shards = set(
                json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / INDEX}: not an index of weights; fetch it again") from error
        files = [folder / name for name in sorted(shards)]
    else:
        files = [folder / SINGLE] if (folder / SINGLE).is_file() else []
        files = files or sorted(folder.glob("*.safetensors"))
        if not files and not list(folder.glob("*.bin")):
            raise UserError(f"{folder / SINGLE}: no such file, the model has no weights")
    for file in files:
        _check_file(file)


def _check_file(file: Path) -> None:
    """8 bytes with the header's length, the header as JSON, and tensors to the end of the file."""
    if not file.is_file():
        raise UserError(f"{file}: no such file, the model's index names it; fetch it again")
    refuse_pointer(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise UserError(f"{file}: cut off or no safetensors file, {size} bytes; fetch it again")
        try:
            header = json.loads(stream.read(length))
            ends = [one["data_offsets"][1] for name, one in header.items() if name[:2] != "__"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: no safetensors file, its header is torn") from error
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        raise UserError(f"{file}: {size:,} of {whole:,} bytes are there; fetch it again")
