"""Bytes of tensors that are alive at once while a function runs, counted as operators give them."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Alive(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if _is(one)}
        for one in filter(_is, tree_leaves(found)):
            storage = one.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage._cdata, None)
        self.most = max(self.most, sum(self.sizes.values()))
        return found


def _is(one: Any) -> bool:
    return isinstance(one, torch.Tensor)


def most_allocated(function: Callable[[], Any]) -> int:
    """Beside what was there before; what an operator holds by itself is not seen."""
    with _Alive() as alive:
        function()
    return alive.most


def kept_by_autograd(function: Callable[[], Any]) -> int:
    """Bytes of all storages that a forward pass saves, weights among them."""
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = function()  # alive until the bytes are summed
    total = sum(saved.values())
    del outputs
    return total
