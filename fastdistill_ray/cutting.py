"""A smaller model from chosen decoder blocks of another, as a folder of its own.

Where students of fewer layers begin: every second block of a model still works, a little, and has
its widths, so that hidden states can be compared (DistilBERT, arXiv 1910.01108, section 3).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdistill_ray.errors import UserError

PROBE = [[1, 2, 3, 4, 5]]  # token ids
NOT_COPIED = ("*.safetensors*", "*.bin", "*.gguf", "config.json", "README.md")


def cut_model(folder: str, layers: Sequence[int], out: Path) -> None:
    """Those blocks, counted from 0, in that order; UserError where the family cannot be cut so that
    the new folder computes the same."""
    try:
        _cut(folder, layers, out)
    except UserError:
        raise
    except Exception as error:  # whatever another's code raises
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"student.init.layers: {folder} cannot be cut: {reason}") from error


def _cut(folder: str, layers: Sequence[int], out: Path) -> None:
    import torch  # noqa: PLC0415  slow
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  slow

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager")
    text = model.config.get_text_config()
    lists = block_lists(model)
    if len(lists) != 1:
        raise UserError(
            f"student.init.layers: {model.config.model_type} has no one list of decoder blocks to "
            "choose from; leave it out"
        )
    number, parent, name = text.num_hidden_layers, *lists[0]
    if bad := [layer for layer in layers if not 0 <= layer < number]:
        raise UserError(
            f"student.init.layers: {bad[0]} is no block of {folder}, which has 0 to {number - 1}"
        )
    kept = [getattr(parent, name)[layer] for layer in layers]
    setattr(parent, name, torch.nn.ModuleList(kept))
    for field, value in vars(text).items():
        if isinstance(value, list) and len(value) == number:  # such as the kind of each layer
            setattr(text, field, [value[layer] for layer in layers])
    text.num_hidden_layers = len(kept)
    smaller = AutoModelForCausalLM.from_config(
        model.config, dtype=model.dtype, attn_implementation="eager"
    )
    smaller.load_state_dict(model.state_dict())
    probe = torch.tensor(PROBE)
    with torch.no_grad():
        before, after = (one.eval()(probe, use_cache=False).logits for one in (model, smaller))
    if not torch.equal(before, after):
        raise UserError(
            f"student.init.layers: {model.config.model_type} computes a block by its place, so "
            "that others in its place are not the same; leave it out"
        )
    smaller.generation_config = model.generation_config
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(*NOT_COPIED), dirs_exist_ok=True)
    smaller.save_pretrained(out)


def block_lists(model: Any) -> list[tuple[Any, str]]:
    """Modules with an attribute that lists all decoder blocks, and its name; one, where it is clear
    which blocks those are."""
    import torch  # noqa: PLC0415  slow

    names = set(getattr(model, "_no_split_modules", None) or ())
    number = model.config.get_text_config().num_hidden_layers
    return [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, torch.nn.ModuleList)
        and len(child) == number
        and all(type(block).__name__ in names for block in child)
    ]
