"""What blocks of a model say while its forward runs, by hooks that leave with it.

What is computed again in backward is not kept: the hooks are gone by then.
Legend: R rows of L tokens, D hidden, N tokens of all rows, W numbers of a projection.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedConfig

from fastdistill_ray.errors import UserError
from fastdistill_ray.objectives.contract import FIRST, LAST, Wanted

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class Kept(NamedTuple):
    states: dict[int, Tensor]  # [R, L, D] that blocks give, or that the first one is given
    # [N, W] of each of PROJECTIONS, before any norm and without rotary positions.
    vectors: dict[str, Tensor]


@contextlib.contextmanager
def kept(blocks: Sequence[nn.Module], wanted: Wanted, config: PreTrainedConfig) -> Iterator[Kept]:
    """What is wanted of a model with these decoder blocks, but LAST, once its forward inside has
    run. UserError where a family's blocks give something else."""
    found, hooks = Kept({}, {}), []

    def keep_output(block: int, _module: nn.Module, _given: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.ndim != 3 or hidden.shape[-1] != config.hidden_size:
            raise UserError(
                f"block {block} of {config.model_type} gives {list(hidden.shape)}, expected one "
                f"state of {config.hidden_size} numbers a token; it cannot be compared"
            )
        found.states[block] = hidden

    def keep_given(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.states[FIRST] = given[0] if given else named["hidden_states"]

    def keep_vectors(name: str, _module: nn.Module, _given: Any, output: Tensor) -> None:
        found.vectors[name] = output.flatten(0, -2)

    for one in wanted.blocks:
        if one == FIRST:
            hooks.append(blocks[0].register_forward_pre_hook(keep_given, with_kwargs=True))
        elif one != LAST:
            hooks.append(blocks[one].register_forward_hook(partial(keep_output, one)))
    if wanted.related is not None:
        for name, layer in projections_of(blocks[wanted.related], config.model_type).items():
            found.vectors[name] = None  # pyright: ignore[reportArgumentType]  # in this order
            hooks.append(layer.register_forward_hook(partial(keep_vectors, name)))
    try:
        yield found
        if None in found.vectors.values():
            raise UserError(
                f"block {wanted.related} of {config.model_type} does not use its "
                f"{', '.join(PROJECTIONS)}; its relations cannot be compared"
            )
    finally:
        for hook in hooks:
            hook.remove()


def projections_of(block: nn.Module, kind: str) -> dict[str, nn.Module]:
    """The layers that make queries, keys and values in a decoder block, by their names;
    UserError where a family of that `kind` has them not by themselves."""
    found = {}
    for name in PROJECTIONS:
        layers = [one for path, one in block.named_modules() if path.split(".")[-1] == name]
        if len(layers) != 1:
            raise UserError(
                f"a block of {kind} has {len(layers)} layers {name}, expected one; its relations "
                "cannot be compared"
            )
        found[name] = layers[0]
    return found
