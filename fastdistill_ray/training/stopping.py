"""Ending a training between two steps, on all ranks at the same one, with a checkpoint."""

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.distributed as dist

from fastdistill_ray.background import repeated
from fastdistill_ray.run_files import STOP
from fastdistill_ray.storage.place import Place

LOOK_SECONDS = 1.0


@contextlib.contextmanager
def watch_stop(out: Place) -> Iterator[Callable[[], bool]]:
    """Gives a function that every rank calls before a step: whether to stop, the same on all.

    Rank 0 looks for the file beside the training; a broadcast tells the others.
    """
    # Of its own: a checkpoint that is being written has collectives in another thread.
    group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
    seen = torch.zeros(1, dtype=torch.uint8)

    def look() -> None:
        if (out / STOP).is_file():
            seen.fill_(1)

    def is_told() -> bool:
        told = seen.clone()
        dist.broadcast(told, src=0, group=group)
        return bool(told)

    is_first = dist.get_rank() == 0
    with repeated(look, LOOK_SECONDS) if is_first else contextlib.nullcontext():
        yield is_told
