"""What blocks of a model say while its forward runs, by hooks that leave with it.

Legend: R rows of L tokens, D hidden.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from fastdistill_ray.errors import UserError
from fastdistill_ray.objectives.contract import FIRST


@contextlib.contextmanager
def kept_states(
    blocks: Sequence[nn.Module], wanted: Sequence[int], config: PreTrainedConfig
) -> Iterator[dict[int, Tensor]]:
    """What these of a model's decoder blocks give, or FIRST is given, [R, L, D], in a forward
    inside; what is computed again in backward is not kept. UserError where a family's blocks give
    something else."""
    kept: dict[int, Tensor] = {}

    def keep(block: int, _module: nn.Module, _given: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.ndim != 3 or hidden.shape[-1] != config.hidden_size:
            raise UserError(
                f"block {block} of {config.model_type} gives {list(hidden.shape)}, expected one "
                f"state of {config.hidden_size} numbers a token; it cannot be compared"
            )
        kept[block] = hidden

    def keep_given(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        keep(FIRST, module, None, given[0] if given else named["hidden_states"])

    hooks = [
        blocks[0].register_forward_pre_hook(keep_given, with_kwargs=True)
        if one == FIRST
        else blocks[one].register_forward_hook(partial(keep, one))
        for one in wanted
    ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
