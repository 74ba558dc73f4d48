"""Ending a training between two steps, on all ranks at the same one, with a checkpoint."""

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.distributed as dist

from fastdistill_ray.background import repeated
from fastdistill_ray.run_files import STOP
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.feed import Ahead

LOOK_SECONDS = 1.0


@contextlib.contextmanager
def watch_stop(out: Place) -> Iterator[Callable[[Ahead], bool]]:
    """Gives a function that every rank calls before a step, with its rows: it returns once all
    ranks have their next row, False, or once they are told to stop, True, the same on all. Where
    there are no more rows the training ends by itself.

    Rank 0 looks for the file beside the training and tells the others, also while they wait.
    """
    # Of its own: a checkpoint that is being written has collectives in another thread.
    group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
    is_seen = False

    def look() -> None:
        nonlocal is_seen
        is_seen = is_seen or (out / STOP).is_file()

    def is_told(rows: Ahead) -> bool:
        while True:
            waits = not rows.is_here(LOOK_SECONDS)
            of_any = torch.tensor([is_seen, waits, not rows.is_over], dtype=torch.uint8)
            dist.all_reduce(of_any, dist.ReduceOp.MAX, group=group)
            is_any_told, is_any_waiting, is_more = of_any.bool().tolist()
            if not is_any_waiting or is_any_told:
                return is_any_told and is_more

    is_first = dist.get_rank() == 0
    with repeated(look, LOOK_SECONDS) if is_first else contextlib.nullcontext():
        yield is_told
