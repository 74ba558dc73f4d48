"""Generation and training side by side against the longer of the two alone, each on its one core.

    python -m benchmarks.overlap [--json FILE] [--problems 24] [--run-dir DIR]

A small cut of the demo with real engines, one epoch: a second one cannot begin before the last
group is there. Alone: everything of a stage on one core. Side by side: the teacher's processes and
the judges on core 0, the student's on core 1, Ray's and the driver on both. Start-up is left out
and told apart: generation and both count from the first group, training alone from the start of its
first step. With --run-dir the folders stay; report.html of `both` has the timeline.
"""

import argparse
import json
import logging
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import ROOT, make_parser, run_fresh, write_json
from fastdistill_ray.run_files import METRICS, STEPS, stage_folders

CORES = {"VLLM": 0, "Asking": 0, "GroupWriter": 0, "TrainWorker": 1, "FollowSteps": 1}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--run-dir", default="", help="kept; else a temporary folder")
    parser.add_argument("--one", nargs=2, default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_stage(arguments.one[0], arguments.one[1], arguments.problems)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.run_dir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for stage, run_dir in (("generate", "alone"), ("train", "alone"), ("both", "both")):
            command = ["--problems", str(arguments.problems), "--one", stage, str(folder / run_dir)]
            run_fresh("benchmarks.overlap", *command, log=folder / f"{stage}.log")
        result = compare(folder)
    print(json.dumps(result, indent=1))
    write_json(arguments.json, result)


def compare(folder: Path) -> dict[str, Any]:
    alone, both = events(folder / "alone"), events(folder / "both")
    generation = alone["groups"][-1] - alone["groups"][0]
    training = alone["steps"][-1] - alone["first_step"]
    together = max(both["groups"][-1], both["steps"][-1]) - both["groups"][0]
    return {
        "generation_alone_seconds": generation,
        "training_alone_seconds": training,
        "side_by_side_seconds": together,
        "generation_side_by_side_seconds": both["groups"][-1] - both["groups"][0],
        "training_side_by_side_seconds": both["steps"][-1] - both["first_step"],
        "start_up_seconds": both["groups"][0] - both["start"],
        "first_step_after_first_group_seconds": both["first_step"] - both["groups"][0],
        "steps_before_the_last_group": sum(step < both["groups"][-1] for step in both["steps"]),
        "steps": len(both["steps"]),
        "ratios": {"side_by_side_over_longer": together / max(generation, training)},
    }


def events(run: Path) -> dict[str, Any]:
    """When each group was committed, each step ended and the first one began."""
    from fastdistill_ray.groups.store import Store

    stages = stage_folders(run)
    commits = Store(stages["groups"]).commits()
    (training,) = (folder for name, folder in stages.items() if name.startswith("train/"))
    steps = [json.loads(line)["time"] for line in (training / STEPS).read_text().splitlines()]
    metrics = json.loads((training / METRICS).read_text().splitlines()[0])
    groups = [time for commit in commits for _, _, time in commit.parts or [("", 0, commit.time)]]
    return {
        "groups": sorted(groups),
        "steps": steps,
        "first_step": steps[0] - metrics["time/step"],
        "start": float((run / "start.txt").read_text()),
    }


def run_stage(stage: str, run_dir: str, num_problems: int) -> None:
    """In this process, which is the driver."""
    import ray

    from fastdistill_ray.recipe.loading import load_recipe
    from fastdistill_ray.report.sections import write_report
    from fastdistill_ray.run.driver import quiet
    from fastdistill_ray.run.folder import RunFolder
    from fastdistill_ray.run.pipeline import (
        generate_and_train,
        generate_groups,
        prepare_problems,
        train_students,
    )

    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray's own spelling
    quiet()
    if stage != "both":
        os.sched_setaffinity(0, {0 if stage == "generate" else 1})
    recipe = load_recipe(str(ROOT / "jobs/recipes/demo_full.yaml"), overrides(num_problems))
    run = RunFolder(run_dir, recipe)
    problems = prepare_problems(run)["train"]
    run.claim()
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=300 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    threading.Thread(target=pin, daemon=True).start() if stage == "both" else None
    (Path(run_dir) / "start.txt").write_text(str(time.time()))
    if stage == "generate":
        generate_groups(run, problems)
    elif stage == "train":
        train_students(run, problems)
    else:
        generate_and_train(run, problems)
        print(write_report(run_dir))


def overrides(num_problems: int) -> list[str]:
    """As the demo, smaller: the engine holds a sixth of the groups at once, as it would there."""
    return [
        f"task.num_train={num_problems}",
        f"teacher.engine.max_num_seqs={max(1, num_problems // 6) * 8}",
        "selection.min_correct=0",
        "training.overlap=true",
        "training.groups_per_step=2",
        "training.epochs=1",
        "compare.students=[]",
        "compare.learning_rates=[]",
        "compare.epochs=[]",
    ]


def pin() -> None:
    """Processes of either stage to its core, as they appear."""
    driver = psutil.Process()
    pinned: dict[int, int] = {}
    while True:
        for process in driver.children(recursive=True):
            try:
                title = process.cmdline()[0]
                for name, core in CORES.items():
                    if name in title and pinned.get(process.pid) != core:
                        for thread in process.threads():
                            os.sched_setaffinity(thread.id, {core})
                        pinned[process.pid] = core
            except (psutil.Error, IndexError, OSError):
                continue  # it has ended
        time.sleep(0.1)


if __name__ == "__main__":
    main()
