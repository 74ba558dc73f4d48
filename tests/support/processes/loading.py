"""One of several gloo ranks that read a student, each its own part; rank 0 writes the whole again.

python loading.py FOLDER RANK WORLD_SIZE OUT LORA_RANK MODEL ...
"""

import sys

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from fastdistill_ray.training.knobs import LoraKnobs, TrainingKnobs
from fastdistill_ray.training.loading import fill
from fastdistill_ray.training.sharding import shard_student
from fastdistill_ray.training.student import Student, empty_student

CPU = torch.device("cpu")


def read_shard(folder: str, lora: LoraKnobs) -> Student:
    torch.manual_seed(0)
    student, weights = empty_student(
        folder,
        vocab_size=10**6,
        device=CPU,
        shared_prompt=False,
        trains_router=False,
        lora=lora,
    )
    shard_student(student, TrainingKnobs(shared_prompt=False, lora=lora), CPU)
    fill(student, weights, CPU)
    return student


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def main(folder: str, rank: int, world_size: int, out: str, lora: int, *models: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    found = {}
    for name in models:
        student = read_shard(f"{folder}/{name}", LoraKnobs(rank=lora)).model
        tensors = [*student.state_dict().items(), *student.named_buffers()]
        found[name] = {key: whole(tensor) for key, tensor in tensors}
        own = sum(one.to_local().numel() for one in student.parameters())
        assert own < 0.51 * sum(one.numel() for one in student.parameters())
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    rank, world_size, out, lora, *models = sys.argv[2:]
    main(sys.argv[1], int(rank), int(world_size), out, int(lora), *models)
