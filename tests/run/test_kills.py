"""kill -9 of a driver and of a vLLM engine: the next run, or the same one, has every group once."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from support.jobs import lines_of, run_job, start_job, tiny_recipe, write_recipe
from support.models import make_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def wait_for(condition, job: subprocess.Popen, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, "the job ended before the kill"
        assert time.monotonic() < deadline, "what the kill waits for never came"
        time.sleep(0.05)


def kill_with_children(job: subprocess.Popen) -> None:
    """As when a node goes away: the driver and all it started."""
    processes = [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    job.wait()


def vllm_processes(job: subprocess.Popen) -> list[psutil.Process]:
    """The engine and its workers: by their title or, for setting it fails where the first
    variable of the environment has been changed, by how they were started."""
    return [
        process
        for process in psutil.Process(job.pid).children(recursive=True)
        if any(mark in " ".join(process.cmdline()) for mark in ("VLLM::", "multiprocessing.spawn"))
    ]


def logged(groups: Path) -> list[str]:
    return [key for commit in lines_of(groups / "log.jsonl") for key in commit["keys"]]


def test_driver_killed_while_generating_asks_again_only_for_the_missing(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    engine = {
        "kind": "scripted",
        "max_model_len": 1024,
        "max_num_seqs": 4,
        "extra": {"seconds_per_request": 0.5},
    }
    recipe = write_recipe(tmp_path, tiny_recipe(model, teacher={"model": model, "engine": engine}))
    groups = tmp_path / "run" / "stages" / "groups"
    job = start_job("generate", recipe, tmp_path / "run")
    wait_for(lambda: len(logged(groups)) >= 5, job)
    kill_with_children(job)
    before = [(line["file"], line["time"]) for line in lines_of(groups / "log.jsonl")]
    assert 5 <= len(before) < 24
    run_job("generate", recipe, tmp_path / "run")
    (merged,) = lines_of(groups / "log.jsonl")
    after = [(file, time) for file, _, time in merged["parts"]]
    assert after[: len(before)] == before, "a committed group was asked again"
    assert [file.name for file in groups.glob("part-*")] == [merged["file"]]
    keys = logged(groups)
    assert len(keys) == len(set(keys)) == 24
    assert (groups / "manifest.json").exists()


def test_driver_killed_while_training_overlapped_repeats_no_step_and_skips_none(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    recipe = write_recipe(
        tmp_path,
        tiny_recipe(
            model,
            training={
                "overlap": True,
                "epochs": 3,
                "groups_per_step": 2,
                "checkpoint_every": 4,
                "max_seq_len": 1024,
                "precision": "fp32",
            },
        ),
    )
    run = tmp_path / "run"
    out = run / "stages" / "train" / "advdistill" / "lr_0.001"
    job = start_job("distill", recipe, run)
    wait_for(lambda: len(lines_of(out / "steps.jsonl")) >= 10, job)
    kill_with_children(job)
    before = lines_of(out / "metrics.jsonl")
    assert not (out / "manifest.json").exists()
    run_job("distill", recipe, run)
    steps, metrics = lines_of(out / "steps.jsonl"), lines_of(out / "metrics.jsonl")
    assert [line["step"] for line in steps] == list(range(len(steps)))
    keys = logged(run / "stages" / "groups")
    assert len(keys) == len(set(keys)) == 24
    kept = [
        key
        for commit in lines_of(run / "stages" / "groups" / "log.jsonl")
        for key, dropped in zip(commit["keys"], commit["dropped"], strict=True)
        if not dropped
    ]
    for epoch in range(3):
        trained = [key for line in steps if line["epoch"] == epoch for key in line["group_ids"]]
        assert sorted(trained) == sorted(kept)
    # The first steps, trained before the kill, were not trained again or changed.
    assert [line["train/loss"] for line in metrics[:4]] == [
        line["train/loss"] for line in before[:4]
    ]


def test_vllm_engine_killed_is_started_again_and_every_group_is_there_once(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    engine = {"max_model_len": 1024, "max_num_seqs": 4, "enforce_eager": True}
    engine |= {"dtype": "float32", "cpu_kv_cache_gib": 1}
    recipe = write_recipe(
        tmp_path,
        tiny_recipe(
            model,
            teacher={"model": model, "engine": engine},
            sampling={"n": 2, "max_new_tokens": 128},
            selection={"min_correct": 0},
        ),
    )
    groups = tmp_path / "run" / "stages" / "groups"
    job = start_job("generate", recipe, tmp_path / "run")
    wait_for(lambda: len(logged(groups)) >= 2, job)
    engines = vllm_processes(job)
    os.kill(engines[-1].pid, signal.SIGKILL)
    done_at_kill = len(logged(groups))
    assert job.wait(timeout=200) == 0, Path(f"{tmp_path / 'run'}.log").read_text()[-3000:]
    keys = logged(groups)
    assert done_at_kill < 24
    assert len(keys) == len(set(keys)) == 24
