"""One of several gloo ranks that export students, each by rank 0 alone and by all of them.

python exports.py FOLDER RANK WORLD_SIZE LORA_RANK MODEL ...
"""

import sys

import torch
import torch.distributed as dist
from loading import read_shard  # beside this script

from fastdistill_ray.storage.place import Place
from fastdistill_ray.training import export
from fastdistill_ray.training.knobs import LoraKnobs


def main(folder: str, rank: int, world_size: int, lora: int, *models: str) -> None:
    # Not the file where the process of the test itself, a world of one, is found.
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=world_size
    )
    for name in models:
        source = f"{folder}/{name}"
        student = read_shard(source, LoraKnobs(rank=lora))
        with torch.no_grad():  # as if it were trained, alike on any number of ranks
            for parameter in student.parameters():
                if parameter.requires_grad:
                    parameter.mul_(1.125).add_(0.01)
        export.export_student(student, source, Place(f"{folder}/{name}-whole"))
        export.SHARED_FROM = 0
        export.export_student(student, source, Place(f"{folder}/{name}-shared"))
        export.SHARED_FROM = 2**60
    dist.destroy_process_group()


if __name__ == "__main__":
    rank, world_size, lora, *models = sys.argv[2:]
    main(sys.argv[1], int(rank), int(world_size), int(lora), *models)
