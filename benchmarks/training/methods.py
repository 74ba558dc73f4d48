"""One training method in a fresh process: seconds of its steps and the memory it took.

    python -m benchmarks.training.methods METHOD RUN_DIR OUT.json [--steps N] [--model FOLDER]

All of METHODS train the same tokens of the same committed groups, four groups a step.
"""

import argparse
import ctypes
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback

from benchmarks.training.padded import padded_step
from fastdistill_ray.groups.steps import StepPlan, rank_rows
from fastdistill_ray.models import fetch_model, load_tokenizer, model_size
from fastdistill_ray.objectives import AdvDistill, Objective, Sft
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.run_files import stage_folders
from fastdistill_ray.training.knobs import OptimizerKnobs
from fastdistill_ray.training.learner import build_learner
from fastdistill_ray.training.packing import TrainGroup
from fastdistill_ray.training.reading import StudentText, prepare_group
from fastdistill_ray.training.step import train_step
from fastdistill_ray.training.texts import student_text

CPU = torch.device("cpu")
GROUPS_PER_STEP = 4
OPTIMIZER = OptimizerKnobs(learning_rate=1e-5, warmup_ratio=0.0, schedule="constant")


class Work(NamedTuple):
    """What is trained: `num_steps` steps and one before them to warm up."""

    recipe: Recipe
    run_dir: str
    model: str  # a folder
    vocab_size: int
    num_steps: int

    def rows(self) -> list[dict[str, Any]]:
        groups = stage_folders(Path(self.run_dir))["groups"]
        plan = StepPlan(str(groups), GROUPS_PER_STEP, 1, self.num_steps + 1, 0, False)
        return list(rank_rows(plan, 0, 1))

    def text(self) -> StudentText:
        return student_text(self.model, load_tokenizer(self.model), self.recipe.student.prompt, {})

    def prepared(self, text: StudentText, objective: Objective) -> list[list[TrainGroup]]:
        """Steps of groups, as our own loop prepares them."""
        length = self.recipe.training.max_seq_len
        return [
            [
                group
                for one in row["groups"]
                for group in prepare_group(
                    one, text, objective, advantage=AdvantageKnobs(), max_seq_len=length
                )
            ]
            for row in self.rows()
        ]


def ours(work: Work, objective: Objective) -> Iterator[float]:
    rendezvous = f"file://{tempfile.mkdtemp()}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    training = work.recipe.training
    learner = build_learner(
        folder=work.model,
        vocab_size=work.vocab_size,
        text=work.text(),
        device=CPU,
        objective=objective,
        advantage=AdvantageKnobs(),
        optimizer=OPTIMIZER,
        training=training.model_copy(update={"shared_prompt": True}),
    )
    for row in work.rows():
        start = time.perf_counter()
        train_step(learner, row, work.num_steps + 1)
        yield time.perf_counter() - start


def padded(work: Work) -> Iterator[float]:
    """The straightforward AdvDistill."""
    model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32).train()
    steps = work.prepared(work.text(model), AdvDistill())
    optimizer = torch.optim.AdamW(model.parameters(), lr=OPTIMIZER.learning_rate, fused=True)
    for groups in steps:
        start = time.perf_counter()
        padded_step(model, optimizer, groups)
        optimizer.zero_grad()
        yield time.perf_counter() - start


class StepClock(TrainerCallback):
    """Seconds of each update; the trainer has dropped its gradients when a step ends."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def trl(work: Work, is_packed: bool) -> Iterator[float]:
    """TRL's SFTTrainer twice over the timed groups, the first time to warm up.

    Packed rows hold about as many groups as an unpacked batch.
    """
    from trl import SFTConfig, SFTTrainer  # of the extra `bench`; nothing else here needs it

    model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    steps = work.prepared(work.text(model), Sft())
    examples = [
        {
            "input_ids": [*group.prompt_ids.tolist(), *one.token_ids.tolist()],
            "completion_mask": [0] * len(group.prompt_ids) + [1] * len(one.token_ids),
        }
        for groups in steps[1:]
        for group in groups
        for one in group.completions
    ]
    clock = StepClock()
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_length=max(512, max(len(one["input_ids"]) for one in examples)),
        packing=is_packed,
        per_device_train_batch_size=1 if is_packed else GROUPS_PER_STEP,
        num_train_epochs=2,
        learning_rate=OPTIMIZER.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=OPTIMIZER.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        logging_steps=1000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_list(examples),
        processing_class=load_tokenizer(work.model),
        callbacks=[clock],
    )
    trainer.train()
    timed = clock.seconds[len(clock.seconds) // 2 :]
    yield 0.0
    yield from [sum(timed) / work.num_steps] * work.num_steps


METHODS: dict[str, Callable[[Work], Iterator[float]]] = {
    "advdistill_padded": padded,
    "advdistill_ours": lambda work: ours(work, AdvDistill()),
    "sft_trl_unpacked": lambda work: trl(work, is_packed=False),
    "sft_trl_packed": lambda work: trl(work, is_packed=True),
    "sft_ours": lambda work: ours(work, Sft()),
}


def measure(method: str, work: Work) -> dict[str, Any]:
    """Seconds of the timed groups, and bytes at most above what lasts between steps."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    seconds, resident = [], 0
    for taken in METHODS[method](work):
        seconds.append(taken)
        if len(seconds) > work.num_steps:  # the last: what is free goes back to the machine
            give_back()
            resident = memory("VmRSS")
    gradients = 4 * model_size(work.model)  # none are kept between steps
    return {
        "method": method,
        "seconds": sum(seconds[1:]),
        "steps": len(seconds) - 1,
        "resident": resident + gradients,
        "peak_above": memory("VmHWM") - resident - gradients,
    }


def give_back() -> None:
    """What the allocator keeps goes to the machine: of glibc, and of jemalloc where loaded."""
    gc.collect()
    libraries = ctypes.CDLL(None)
    libraries.malloc_trim(0)
    if hasattr(libraries, "mallctl"):
        libraries.mallctl(b"arena.4096.purge", None, None, None, ctypes.c_size_t(0))  # of all


def memory(name: str) -> int:
    """VmRSS (resident now) or VmHWM (at most) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def grown_model(folder: str, vocab_size: int) -> str:
    """A copy whose vocabulary has random rows up to that size."""
    out = tempfile.mkdtemp()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    model.save_pretrained(out)
    load_tokenizer(folder).save_pretrained(out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("run_dir")
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--model", default="", help="a folder; default: the recipe's student")
    arguments = parser.parse_args()
    recipe = load_recipe(f"{arguments.run_dir}/recipe.yaml", [])
    model = arguments.model or fetch_model(recipe.student.model)
    config = AutoConfig.from_pretrained(model)
    work = Work(recipe, arguments.run_dir, model, config.vocab_size, arguments.steps)
    Path(arguments.out).write_text(json.dumps(measure(arguments.method, work)))


if __name__ == "__main__":
    main()
