"""What blocks of a model say while its forward runs, by hooks that leave with it.

What is computed again in backward is not kept: the hooks are gone by then.
Legend: R rows of L tokens, D hidden, N tokens of all rows, W numbers of all heads of a token.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fastdistill_ray.errors import UserError
from fastdistill_ray.objectives.contract import FIRST, LAST, Wanted

PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class Vectors(NamedTuple):
    """What is related in each head, of all tokens: softmax(scale query key^T)."""

    query_NW: Tensor
    key_NW: Tensor
    num_heads: int
    scale: float


class Kept(NamedTuple):
    states: dict[int, Tensor]  # [R, L, D] that blocks give, or that the first one is given
    vectors: list[Vectors]  # of the block whose relations are wanted


@contextlib.contextmanager
def kept(blocks: Sequence[nn.Module], wanted: Wanted, config: PreTrainedConfig) -> Iterator[Kept]:
    """What is wanted of a model with these decoder blocks, but LAST, once its forward inside has
    run. UserError where a family's blocks give something else."""
    vectors: list[Vectors] = []
    with kept_states(blocks, wanted.blocks, config) as states:
        if wanted.related is None:
            yield Kept(states, vectors)
            return
        keep = kept_projections if wanted.num_heads else kept_attention
        with keep(blocks[wanted.related], config) as made:
            yield Kept(states, vectors)
        if len(made) < 3:
            raise UserError(
                f"block {wanted.related} of {config.model_type} does not attend by queries, keys "
                "and values of its own; its relations cannot be compared"
            )
        if wanted.num_heads:
            vectors += [split(made[name], wanted.num_heads) for name in PROJECTIONS]
        else:
            vectors += attention_of(**made)


@contextlib.contextmanager
def kept_states(
    blocks: Sequence[nn.Module], wanted: Sequence[int], config: PreTrainedConfig
) -> Iterator[dict[int, Tensor]]:
    """[R, L, D] of each, by its place."""
    states: dict[int, Tensor] = {}

    def keep(block: int, _module: nn.Module, _given: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.ndim != 3 or hidden.shape[-1] != config.hidden_size:
            raise UserError(
                f"block {block} of {config.model_type} gives {list(hidden.shape)}, expected one "
                f"state of {config.hidden_size} numbers a token; it cannot be compared"
            )
        states[block] = hidden

    def keep_given(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        states[FIRST] = given[0] if given else named["hidden_states"]

    hooks = [
        blocks[0].register_forward_pre_hook(keep_given, with_kwargs=True)
        if one == FIRST
        else blocks[one].register_forward_hook(partial(keep, one))
        for one in wanted
        if one != LAST
    ]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def fed(blocks: Sequence[nn.Module], given: Mapping[int, Tensor]) -> Iterator[None]:
    """Behind some of these blocks, by their places, a forward inside goes on with other states, [R,
    L, D]. No block's input is changed, which one that is computed again would not find."""

    def feed(state: Tensor, _module: nn.Module, _given: Any, output: Any) -> Any:
        return (state, *output[1:]) if isinstance(output, tuple) else state

    hooks = [
        blocks[place].register_forward_hook(partial(feed, state)) for place, state in given.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def kept_projections(block: nn.Module, config: PreTrainedConfig) -> Iterator[dict[str, Any]]:
    """[N, W] of each of PROJECTIONS, before any norm and without rotary positions."""
    made: dict[str, Any] = {}

    def keep(name: str, _module: nn.Module, _given: Any, output: Tensor) -> None:
        made[name] = output.flatten(0, -2)

    layers = projections_of(block, config.model_type)
    hooks = [one.register_forward_hook(partial(keep, name)) for name, one in layers.items()]
    try:
        yield made
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def kept_attention(block: nn.Module, config: PreTrainedConfig) -> Iterator[dict[str, Any]]:
    """What the attention of this block is computed from, whatever kernel does it: `query`, `key`
    and `value` of each head, [R, H, L, D], with norms and positions, and `scaling`."""
    kernel, made = config._attn_implementation, {}
    if kernel not in ALL_ATTENTION_FUNCTIONS:
        raise UserError(
            f"the attention of {config.model_type} is computed by {kernel!r}, inside of which "
            "nothing can be seen; its relations cannot be compared"
        )
    inner, compute = set(block.modules()), ALL_ATTENTION_FUNCTIONS[kernel]

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any
    ) -> Any:
        if module in inner:
            if named.get("softcap") or named.get("s_aux") is not None:
                raise UserError(
                    f"the attention of {config.model_type} is more than the softmax of products "
                    "of queries and keys; its relations cannot be compared"
                )
            made.update(query=query, key=key, value=value, scaling=named.get("scaling"))
        return compute(module, query, key, value, *rest, **named)

    ALL_ATTENTION_FUNCTIONS[kernel] = attend
    try:
        yield made
    finally:
        del ALL_ATTENTION_FUNCTIONS[kernel]


def split(values_NW: Tensor, num_heads: int) -> Vectors:
    """Related to themselves in so many heads."""
    return Vectors(values_NW, values_NW, num_heads, (num_heads / values_NW.shape[1]) ** 0.5)


def attention_of(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None
) -> tuple[Vectors, Vectors]:
    """Attention, and values related to themselves; a head of keys serves several of queries."""
    num_heads = query.shape[1]
    own, other, values = (
        part.repeat_interleave(num_heads // part.shape[1], 1).transpose(1, 2).flatten(0, 1)
        for part in (query, key, value)
    )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attention = Vectors(own.flatten(1), other.flatten(1), num_heads, scale)
    return attention, split(values.flatten(1), num_heads)


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
