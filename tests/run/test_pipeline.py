"""The whole pipeline on a local Ray: real vLLM, two FSDP ranks, training beside generation."""

import json
import os
import signal
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import yaml
from peft import AutoPeftModelForCausalLM
from support.groups import commits_of
from support.head import engines_started
from support.jobs import (
    ended,
    lines_of,
    run_job,
    stage_folder,
    start_job,
    tail_of,
    tiny_recipe,
    wait_for,
    write_recipe,
)
from support.models import make_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastdistill_ray.run.status import status

pytestmark = pytest.mark.ray


class Overlapped(NamedTuple):
    path: Path
    num_engines: int  # started by the job
    num_done: int  # groups when the engine was killed

    @property
    def commits(self) -> list[dict]:
        return commits_of(stage_folder(self.path, "groups"))

    @property
    def trained(self) -> Path:
        return stage_folder(self.path, "train")

    @property
    def keys(self) -> list[str]:
        return [key for commit in self.commits for key in commit["keys"]]


def vllm_processes() -> list[psutil.Process]:
    """The engine and its workers: by their title or, for setting it fails where the first
    variable of the environment has been changed, by how they were started."""
    return [one for one in psutil.Process().children(recursive=True) if is_vllm(one)]


def is_vllm(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False
    return "VLLM::" in command or "multiprocessing.spawn" in command


def overlap(folder: Path, head: str, *, is_killed: bool) -> Overlapped:
    """Two ranks beside an engine whose worker is stopped after some groups; once a step is trained
    it goes on, or is killed -9 and another engine makes the rest."""
    model = make_tiny_model(str(folder / "model"))
    engine = {"max_model_len": 1024, "max_num_seqs": 4, "enforce_eager": True}
    engine |= {"dtype": "float32", "cpu_kv_cache_gib": 1}
    recipe = tiny_recipe(
        model,
        teacher={"model": model, "engine": engine},
        sampling={"n": 2, "max_new_tokens": 64, "seed": 5},
        selection={"min_correct": 0},
        training={"overlap": True, "groups_per_step": 3},
        pools={"student": {"workers": 2, "cpus": 1.0}},
    )
    run = Overlapped(folder / "run", 0, 0)
    others, started = vllm_processes(), engines_started(head)
    job = start_job("overlapped", write_recipe(folder, recipe), run.path, head)
    with ended(job, run.path):
        # A step is handed out once it is known whether it is the last of its epoch.
        wait_for(lambda: len(run.keys) >= 4, job)
        worker = next(one for one in reversed(vllm_processes()) if one not in others)
        worker.suspend()
        wait_for(lambda: lines_of(run.trained / "steps.jsonl"), job)
        num_done = len(run.keys)
        os.kill(worker.pid, signal.SIGKILL if is_killed else signal.SIGCONT)
        assert job.wait() == 0, tail_of(run.path)
    return run._replace(num_engines=engines_started(head) - started, num_done=num_done)


def test_overlap_with_real_vllm_and_two_ranks_trains_before_the_last_commit(tmp_path, head):
    overlapped = overlap(tmp_path, head, is_killed=False)
    keys, out = overlapped.keys, overlapped.trained
    steps = lines_of(out / "steps.jsonl")
    assert steps[0]["time"] < overlapped.commits[-1]["time"], "a step precedes the last commit"
    for epoch in range(2):
        trained = [key for step in steps if step["epoch"] == epoch for key in step["group_ids"]]
        assert sorted(trained) == sorted(keys), "each kept group is trained once per epoch"
    assert trained != keys, "epoch 1 has an order of its own"
    assert [key for step in steps[:8] for key in step["group_ids"]] == keys, "arrival order"
    assert overlapped.num_engines == 1, "epoch 2 starts no engine"
    metrics = lines_of(out / "metrics.jsonl")
    assert metrics[-1]["train/loss"] < metrics[0]["train/loss"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["rows_in"] == 48
    exported = str(out / "epoch_2")
    AutoModelForCausalLM.from_pretrained(exported)
    assert AutoTokenizer.from_pretrained(exported).chat_template


@pytest.mark.slow
def test_vllm_engine_killed_is_started_again_and_every_group_is_there_once(tmp_path, head):
    overlapped = overlap(tmp_path, head, is_killed=True)
    assert 4 <= overlapped.num_done < 24
    assert len(overlapped.keys) == len(set(overlapped.keys)) == 24, "each problem is asked once"


@pytest.mark.slow
def test_watched_run_keeps_the_best_step_and_shows_it(tmp_path, head):
    model = make_tiny_model(str(tmp_path / "model"))
    held_out = {"share": 0.2, "every": 2, "best_metric": "likelihood_gap"}
    lora = {"rank": 4}
    recipe = tiny_recipe(
        model,
        optimizer={"learning_rate": 1e-2},
        training={"held_out": held_out, "lora": lora, "checkpoint_every": 3},
    )
    run = tmp_path / "run"
    log = run_job("distill", write_recipe(tmp_path, recipe), run, head)
    out = stage_folder(run, "train", "advdistill")
    metrics = lines_of(out / "metrics.jsonl")
    gaps = {
        line["step"]: line["held_out/likelihood_gap"]
        for line in metrics
        if "held_out/likelihood_gap" in line
    }
    best = max(gaps, key=lambda step: gaps[step])
    assert set(range(2, len(metrics) + 1, 2)) | {len(metrics)} == set(gaps)
    assert f"{len(metrics)}/{len(metrics)}  epoch 2" in log
    assert f"held out {metrics[-1]['held_out/loss']:.4f}" in log
    (event_file,) = (out / "tensorboard").iterdir()
    assert event_file.stat().st_size > 100 * len(metrics)
    (trial,) = json.loads((run / "choose.json").read_text())["trials"]
    assert trial["epoch"] == metrics[best - 1]["epoch"] + 1
    assert trial["trained_tokens"] == sum(line["train/trained_tokens"] for line in metrics)
    student = run / "students" / "advdistill"
    AutoModelForCausalLM.from_pretrained(student)
    AutoPeftModelForCausalLM.from_pretrained(student / "adapter")
    report = (run / "report.html").read_text()
    assert 'aria-label="held_out"' in report
    assert 'aria-label="likelihood"' in report


@pytest.mark.slow
def test_changed_recipe_in_the_same_folder_makes_only_what_depends_on_it(tmp_path, head):
    model = make_tiny_model(str(tmp_path / "model"))
    changes = {
        "training": {"max_steps": 2, "epochs": 1},
        "compare": {"students": [{"kind": "sft"}], "baselines": ["base"]},
    }
    run = tmp_path / "run"
    run_job("distill", write_recipe(tmp_path, tiny_recipe(model, **changes)), run, head)
    made = {file: file.stat().st_mtime_ns for file in (run / "stages").rglob("manifest.json")}
    first = json.loads((run / "results.json").read_text())
    assert status(str(run)).splitlines()[-1] == "all stages are complete"
    assert len(made) == 7, "problems, groups, two trainings, answers of three models"

    hotter = tiny_recipe(model, **changes, objective={"kind": "advdistill", "tau": 2.0})
    Path(f"{run}.log").unlink()
    log = run_job("distill", write_recipe(tmp_path, hotter), run, head)
    after = {file: file.stat().st_mtime_ns for file in (run / "stages").rglob("manifest.json")}
    assert {file: after[file] for file in made} == made, "nothing is made again or deleted"
    new = [file.parent.name.rpartition("-")[0] for file in after.keys() - made.keys()]
    assert sorted(new) == ["advdistill", "advdistill-lr_0.001"]
    assert "groups: reused" in log and "answers/base: reused" in log
    second = json.loads((run / "results.json").read_text())
    for results in (first, second):
        results["rows"] = [row for row in results["rows"] if row["model"] != "advdistill"]
    assert first["rows"] == second["rows"]
    (kept,) = (run / "recipes").iterdir()
    assert (
        json.loads((kept / "graph.json").read_text())["groups"]
        == (json.loads((run / "graph.json").read_text())["groups"])
    )

    colder = tiny_recipe(model, **changes, sampling={"n": 4, "temperature": 0.5})
    job = start_job("distill", write_recipe(tmp_path, colder), run, head)
    assert job.wait() == 2
    (line,) = [x for x in Path(f"{run}.log").read_text().splitlines() if x.startswith("error:")]
    assert "sampling.temperature was 0.9, now 0.5" in line and "--again groups" in line
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["objective"]["tau"] == 2.0, "a refused recipe does not claim the folder"
