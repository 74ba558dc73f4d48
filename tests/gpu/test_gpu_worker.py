"""A whole job whose student trains on a GPU worker of a local Ray; the teacher is scripted."""

import json
import subprocess
from pathlib import Path

import psutil
import pytest
import torch
from support.jobs import lines_of, run_job, start_job, tail_of, tiny_recipe, wait_for, write_recipe
from support.models import make_tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MEASURED = ("time/step", "train/tokens_per_second", "memory/peak_gib", "time/mfu")
METRICS = "stages/train/advdistill/*/metrics.jsonl"
# Of the arrangement, which on CUDA pads rows to whole blocks.
ARRANGED = ("train/computed_tokens",)


def losses(run: Path) -> list[dict]:
    (metrics,) = run.glob(METRICS)
    return [
        {name: value for name, value in line.items() if name not in (*MEASURED, *ARRANGED)}
        for line in lines_of(metrics)
    ]


def test_job_on_a_gpu_trains_as_on_the_cpu_and_a_killed_worker_changes_no_digit(
    tmp_path: Path,
) -> None:
    model = make_tiny_model(str(tmp_path / "model"))
    runs = {}
    for name, gpus in (("cpu", 0), ("gpu", 1), ("killed", 1)):
        folder = tmp_path / name
        folder.mkdir()
        recipe = tiny_recipe(
            model,
            pools={"student": {"workers": 1, "cpus": 1, "gpus": gpus}},
            training={"checkpoint_every": 2, "epochs": 6},
        )
        file, runs[name] = write_recipe(folder, recipe), folder / "run"
        if name != "killed":
            run_job("distill", file, runs[name])
            continue
        job = start_job("distill", file, runs[name])
        kill_worker_after(job, runs[name], 3, len(losses(runs["gpu"])))
        assert job.wait() == 0, tail_of(runs[name])
    cpu, gpu, killed = (losses(run) for run in runs.values())
    assert len(cpu) >= 8
    assert killed == gpu
    for first, second in zip(cpu, gpu, strict=True):
        assert second == {name: pytest.approx(value, rel=5e-3) for name, value in first.items()}
    (metrics,) = runs["gpu"].glob(METRICS)
    assert all(0 < line["time/mfu"] < 1 for line in lines_of(metrics))
    results = json.loads((runs["gpu"] / "results.json").read_text())
    assert {"base", "advdistill"} <= {row["model"] for row in results["rows"]}
    assert (runs["gpu"] / "report.html").exists()


def kill_worker_after(job: subprocess.Popen, run: Path, num_steps: int, total: int) -> None:
    def done() -> list[dict]:
        return [line for file in run.glob(METRICS) for line in lines_of(file)]

    wait_for(lambda: len(done()) >= num_steps, job)
    children = psutil.Process(job.pid).children(recursive=True)
    (worker,) = [one for one in children if "RayTrainWorker" in one.name()]
    worker.kill()
    assert len(done()) < total, "the training was over before it could be disturbed"
