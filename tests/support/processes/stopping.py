"""One of two gloo ranks that are told to stop: prints how many steps it did until then.

python stopping.py FOLDER RANK ROWS
Behind ROWS of its rows the next one stays unknown; then there is FOLDER/waits<RANK>.
"""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist

from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.feed import Ahead
from fastdistill_ray.training.stopping import watch_stop


def main(folder: Path, rank: int, num_rows: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)

    def rows() -> Iterator[int]:
        yield from range(num_rows)
        (folder / f"waits{rank}").touch()
        threading.Event().wait()

    coming = Ahead(rows(), lambda row: row)
    num_done = 0
    with watch_stop(Place(folder)) as is_told:
        while not is_told(coming):
            next(coming)
            num_done += 1
    print(num_done)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
