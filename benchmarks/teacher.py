"""What a teacher beside the student adds to a training step.

    python -m benchmarks.teacher RUN_DIR [--steps 3] [--repeats 3] [--json FILE]

A recipe's own model teaches itself on the committed groups of its run: every step of forward KL
with a teacher of the student's size, by its recipe's prompt (worked examples) and by the student's,
beside the step of SFT on the same completions, and the teacher's forward pass alone. CPU seconds of
the process, each way in a fresh one; `over_sft` is (step - teacher's forward) / SFT's step.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.harness import make_parser, print_rows, run_fresh, with_spread, write_json
from benchmarks.training.methods import CPU, OPTIMIZER, Work
from fastdistill_ray.models import fetch_model, load_tokenizer
from fastdistill_ray.objectives import ForwardKl, Sft
from fastdistill_ray.prompts import Prompted
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.training.learner import build_learner
from fastdistill_ray.training.step import make_batches, train_step
from fastdistill_ray.training.student import to_device
from fastdistill_ray.training.texts import student_text

WAYS = ("sft", "kl", "kl_with_examples")


def measure(run_dir: str, way: str, num_steps: int) -> dict[str, Any]:
    """CPU seconds of a step, and of the teacher's forward over the same groups: medians."""
    recipe = load_recipe(str(Path(run_dir) / "recipe.yaml"), [])
    folder = fetch_model(recipe.student.model)
    tokenizer, prompt = load_tokenizer(folder), recipe.student.prompt
    work = Work(recipe, run_dir, folder, len(tokenizer), num_steps)
    rendezvous = f"file://{tempfile.mkdtemp()}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    frozen = None
    if way != "sft":
        frozen = Prompted(folder, recipe.teacher.prompt if way.endswith("examples") else prompt)
    learner = build_learner(
        folder=folder,
        vocab_size=len(tokenizer),
        text=student_text(folder, tokenizer, prompt, {}, frozen),
        device=CPU,
        objective=ForwardKl() if frozen else Sft(on="all"),
        advantage=AdvantageKnobs(),
        optimizer=OPTIMIZER,
        training=recipe.training,
        frozen=folder if frozen else "",
    )
    steps, forwards, trained, read = [], [], 0.0, 0.0
    for row in work.rows():
        start = time.process_time()
        metrics = train_step(learner, row, num_steps + 1)
        steps.append(time.process_time() - start)
        trained += metrics["train/trained_tokens"]
        read += metrics.get("train/frozen_tokens", 0.0)
        if learner.frozen:
            batches = make_batches(learner, row["groups"])
            start = time.process_time()
            with torch.no_grad():
                for batch in batches:
                    learner.frozen.read(to_device(batch.frozen or batch.inputs, CPU))
            forwards.append(time.process_time() - start)
    # The first step warms up.
    found = {"step": sum(steps[1:]) / num_steps, "tokens": trained, "teacher_tokens": read}
    if forwards:
        found["forward"] = sum(forwards[1:]) / num_steps
    return found


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--steps", type=int, default=3, help="timed ones, after one to warm up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="this one alone, in this process")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.run_dir, arguments.way, arguments.steps)))
        return
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(arguments.repeats):
        for way in WAYS:
            printed = run_fresh(
                "benchmarks.teacher",
                *(arguments.run_dir, "--way", way, "--steps", str(arguments.steps)),
                env={"OMP_NUM_THREADS": "1"},
            )
            found[way].append(json.loads(printed.splitlines()[-1]))
    sft = [one["step"] for one in found["sft"]]
    rows = []
    for way, ones in found.items():
        row = {"way": way, "tokens": ones[0]["tokens"], "teacher_tokens": ones[0]["teacher_tokens"]}
        row |= with_spread("step_seconds", [one["step"] for one in ones])
        if way != "sft":
            row |= with_spread("teacher_seconds", [one["forward"] for one in ones])
            pairs = zip(ones, sft, strict=True)
            over = [(one["step"] - one["forward"]) / alone for one, alone in pairs]
            row |= with_spread("over_sft", over)
        rows.append(row)
    print_rows(rows)
    write_json(arguments.json, {"torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main()
