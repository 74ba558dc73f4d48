"""A run under random kills beside one that nobody disturbs: what is lost, and what is done twice.

    python -m benchmarks.chaos [--kills 20] [--seed 0] [--json FILE] [--section.field=value ...]

The demo's problems and student with a scripted teacher, 8 completions each, one epoch of one
student, then its evaluation; further arguments change the recipe. Kills are SIGKILL, seeded, 5 to
15 seconds apart, of an engine's actor, a judge, a training worker, the driver, or the driver with
its whole Ray node; a driver that ends is started again with the same command. Printed: kills by
target, runs of the command, groups lost, doubled and changed, steps whose loss differs, requests
that were answered and may be in flight, and the seconds of both runs.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import ROOT, make_parser, print_rows, write_json

RECIPE = "jobs/recipes/demo_full.yaml"
CHANGES = [
    "--teacher.engine.kind=scripted",
    "--teacher.engine.max_num_seqs=64",
    "--evaluation.engine.kind=scripted",
    "--evaluation.engine.extra={seconds_per_request: 1.0}",
    "--compare={students: [], learning_rates: [], epochs: []}",
    "--training.epochs=1",
    "--training.checkpoint_every=2",
    "--training.max_failures=100",
]
# What the title of a process says; the driver is the process that was started.
TARGETS = {
    "engine": "MapBatches(Asking)",
    "judge": "MapBatches(RowWriter)",
    "trainer": "TrainWorker",
}
APART = (5.0, 15.0)  # seconds


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments, changes = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        quiet, disturbed = Path(folder) / "quiet", Path(folder) / "disturbed"
        begin = time.monotonic()
        assert start(quiet, changes).wait() == 0, (Path(f"{quiet}.log")).read_text()[-3000:]
        seconds = time.monotonic() - begin
        begin = time.monotonic()
        kills, runs = disturb(disturbed, changes, arguments.kills, random.Random(arguments.seed))
        row = {
            "kills": dict(kills),
            "runs_of_the_command": runs,
            **compare(quiet, disturbed),
            "seconds_undisturbed": round(seconds),
            "seconds": round(time.monotonic() - begin),
        }
    print_rows([row])
    write_json(arguments.json, row)


def start(run: Path, changes: list[str]) -> subprocess.Popen:
    """The job with a Ray node of its own, which ends with it; 8 logical CPUs."""
    slow = f"--teacher.engine.extra={{seconds_per_request: 4.0, log: {asked_log(run)}}}"
    job = ["jobs/distill.py", RECIPE, "--run-dir", str(run), slow, *CHANGES, *changes]
    code = (
        f"import functools, ray, runpy, sys; sys.argv = {job!r}; ray.init = functools.partial("
        "ray.init, address='local', num_cpus=8, include_dashboard=False, "
        "object_store_memory=500 * 2**20); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with open(f"{run}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=log, stderr=log, cwd=ROOT, env=environment
        )


def asked_log(run: Path) -> Path:
    """Each request that was answered."""
    return run.with_suffix(".asked")


def disturb(
    run: Path, changes: list[str], count: int, draw: random.Random
) -> tuple[Counter[str], int]:
    """(kills by target, how often the command ran); after the last kill it may finish."""
    kills: Counter[str] = Counter()
    job, runs = start(run, changes), 1
    while True:
        wait = draw.uniform(*APART) if kills.total() < count else None
        try:
            code = job.wait(wait)
        except subprocess.TimeoutExpired:
            kills.update(kill_one(job, draw))
            continue
        if code == 0:
            return kills, runs
        assert code < 0, Path(f"{run}.log").read_text()[-3000:]
        job, runs = start(run, changes), runs + 1


def kill_one(job: subprocess.Popen, draw: random.Random) -> list[str]:
    """The target killed; none while the run has no worker of any kind yet, as it starts."""
    driver = psutil.Process(job.pid)
    children = driver.children(recursive=True)
    found: dict[str, list[psutil.Process]] = {"driver": [driver], "node": [*children, driver]}
    for name, title in TARGETS.items():
        mine = [child for child in children if title in " ".join(_title(child))]
        if mine:
            found[name] = [draw.choice(sorted(mine, key=lambda child: child.pid))]
    workers = [name for name in TARGETS if name in found]
    if not workers:
        return []
    names = workers * 3 + ["driver", "node"]  # workers die more often than drivers do
    target = draw.choice(names)
    for process in found[target]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    if target == "driver":
        time.sleep(3.0)  # its node ends with it
        for child in children:
            if child.is_running():
                child.kill()
    return [target]


def _title(process: psutil.Process) -> list[str]:
    try:
        return [process.name(), *process.cmdline()]
    except psutil.Error:
        return []


def compare(quiet: Path, disturbed: Path) -> dict[str, Any]:
    groups, others = texts(quiet), texts(disturbed)
    keys = [key for key, _ in others]
    losses, again = steps(quiet), steps(disturbed)
    return {
        "groups": len(groups),
        "groups_lost": len(set(groups) - set(others)),
        "groups_doubled": len(keys) - len(set(keys)),
        "groups_changed": len(set(others) - set(groups)),
        "requests_answered": len(asked_log(disturbed).read_text().splitlines()),
        "requests_in_flight": 2 * 64 // 8,
        "steps": len(losses),
        "steps_whose_loss_differs": sum(a != b for a, b in zip(losses, again, strict=True)),
        "answers_equal": answers(quiet) == answers(disturbed),
    }


def stage(run: Path, kind: str) -> Path:
    (found,) = (run / "stages" / kind).iterdir()
    return found


def texts(run: Path) -> list[tuple[str, str]]:
    from fastdistill_ray.groups.store import Store

    return [
        (row["problem_id"], json.dumps([one["text"] for one in row["completions"]]))
        for table in Store(stage(run, "groups")).tables()
        for row in table.to_pylist()
    ]


def steps(run: Path) -> list[float]:
    lines = (stage(run, "train") / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train/loss"] for line in lines]


def answers(run: Path) -> list[Any]:
    return json.loads((run / "results.json").read_text())["rows"]


if __name__ == "__main__":
    main()
