"""Recipes on a tiny random model, and running jobs as their own processes, as a cluster does."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parents[2]


def tiny_recipe(model: str, **changes: dict | list) -> dict:
    """A recipe of the smallest sizes; sections in `changes` are merged into it."""
    engine = {"kind": "scripted", "max_model_len": 1024}
    recipe = {
        "name": "tiny",
        "task": {"name": "word_problems", "num_train": 24, "num_test": 6, "num_ood": 6},
        "teacher": {"model": model, "engine": engine},
        "student": {"model": model},
        "sampling": {"n": 4, "max_new_tokens": 128},
        "objective": {"kind": "advdistill"},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"epochs": 2, "groups_per_step": 4, "max_seq_len": 1024, "precision": "fp32"},
        "evaluation": {"max_new_tokens": 32, "engine": engine},
    }
    recipe |= {key: value for key, value in changes.items() if not isinstance(value, dict)}
    for section, fields in changes.items():
        if isinstance(fields, dict):
            recipe[section] = {**recipe.get(section, {}), **fields}
    return recipe


def write_recipe(folder: Path, recipe: dict) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


def start_job(
    verb: str, recipe: Path, log: Path, head: str = "", *, run_dir: str = ""
) -> subprocess.Popen:
    """jobs/<verb>.py at a running head, else on a local Ray of its own that ends with it; output in
    <log>.log, the run in `run_dir` or, without one, in `log`."""
    folders = (ROOT / "jobs", Path(__file__).parent / "processes")
    script = next(path for one in folders if (path := one / f"{verb}.py").exists())
    arguments = [str(script), str(recipe), "--run-dir", run_dir or str(log)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    if head:
        environment["RAY_ADDRESS"] = head
    else:
        arguments = [str(Path(__file__).parent / "processes" / "own_head.py"), *arguments]
    with open(f"{log}.log", "a") as output:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )


def kill_with_children(job: subprocess.Popen) -> None:
    """As when a node goes away: the driver and all it started."""
    processes = [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    job.wait()


def run_job(verb: str, recipe: Path, run_dir: Path, head: str = "") -> str:
    """Runs to the end; -> its output."""
    job = start_job(verb, recipe, run_dir, head)
    with ended(job, run_dir):
        assert job.wait() == 0, tail_of(run_dir)
    return Path(f"{run_dir}.log").read_text()


@contextlib.contextmanager
def ended(job: subprocess.Popen, run_dir: Path) -> Iterator[None]:
    """Kills the job at the end; what fails or takes too long is shown with its last lines."""
    try:
        yield
    except BaseException:
        print(tail_of(run_dir))
        raise
    finally:
        job.kill()


def tail_of(run_dir: Path) -> str:
    return Path(f"{run_dir}.log").read_text()[-3000:]


def wait_for(condition: Callable[[], object], job: subprocess.Popen) -> None:
    """As long as the job runs; a hang is for the test's own limit."""
    while not condition():
        assert job.poll() is None, "the job ended before what is waited for"
        time.sleep(0.02)


def stage_folder(run: Path, kind: str, label: str = "") -> Path:
    """That of the only stage of a kind and label; where there is none yet, one without files."""
    found = list((run / "stages" / kind).glob(f"{label}*"))
    assert len(found) <= 1, found
    return found[0] if found else run / "stages" / kind / "none"


def lines_of(file: Path) -> list[dict]:
    if not file.exists():
        return []
    text = file.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
