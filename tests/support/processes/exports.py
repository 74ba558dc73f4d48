"""One of several gloo ranks that export students, each by rank 0 alone and by all of them.

python exports.py FOLDER RANK WORLD_SIZE LORA_RANK MODEL ...
"""

import sys

import torch
import torch.distributed as dist

from fastdistill_ray.storage.place import Place
from fastdistill_ray.training import export
from fastdistill_ray.training.knobs import LoraKnobs, TrainingKnobs
from fastdistill_ray.training.loading import fill
from fastdistill_ray.training.sharding import shard_student
from fastdistill_ray.training.student import empty_student

CPU = torch.device("cpu")


def main(folder: str, rank: int, world_size: int, lora: int, *models: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    for name in models:
        source, knobs = f"{folder}/{name}", LoraKnobs(rank=lora)
        student, weights = empty_student(
            source,
            vocab_size=10**6,
            device=CPU,
            shared_prompt=False,
            trains_router=False,
            lora=knobs,
        )
        shard_student(student, TrainingKnobs(shared_prompt=False, lora=knobs), CPU)
        fill(student, weights, CPU)
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
