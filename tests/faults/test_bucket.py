"""A whole run in a bucket: killed while it generates and while it trains, it loses nothing."""

import json
from pathlib import Path

import pytest
from support.groups import commits_of
from support.jobs import kill_with_children, start_job, tail_of, tiny_recipe, wait_for, write_recipe
from support.models import make_tiny_model

from fastdistill_ray.report.sections import write_report
from fastdistill_ray.run.fsck import fsck
from fastdistill_ray.storage.folders import readable_folder
from fastdistill_ray.storage.place import Place

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def stage(run: Place, kind: str) -> Place:
    found = (run / "stages" / kind).list()
    return found[0] if found else run / "stages" / kind / "none"


def lines(file: Place) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def test_run_in_a_bucket_goes_on_after_kills(tmp_path, bucket):
    from transformers import AutoModelForCausalLM

    model = make_tiny_model(str(tmp_path / "model"))
    slow = {"kind": "scripted", "max_model_len": 1024, "max_num_seqs": 4}
    teacher = {"model": model, "engine": {**slow, "extra": {"seconds_per_request": 0.3}}}
    recipe = write_recipe(
        tmp_path,
        tiny_recipe(model, teacher=teacher, training={"checkpoint_every": 2, "epochs": 3}),
    )
    run = Place(f"{bucket}/{tmp_path.name}/run")
    log = Path(tmp_path / "job")
    job = start_job("distill", recipe, log, run_dir=str(run))
    wait_for(lambda: len(list(commits_of(stage(run, "groups")))) >= 4, job)
    kill_with_children(job)
    before = [key for one in commits_of(stage(run, "groups")) for key in one["keys"]]
    assert 4 <= len(before) < 24
    job = start_job("distill", recipe, log, run_dir=str(run))
    wait_for(lambda: len(lines(stage(run, "train") / "metrics.jsonl")) >= 6, job)
    kill_with_children(job)
    losses = [line["train/loss"] for line in lines(stage(run, "train") / "metrics.jsonl")]
    job = start_job("distill", recipe, log, run_dir=str(run))
    assert job.wait() == 0, tail_of(log)
    keys = [key for one in commits_of(stage(run, "groups")) for key in one["keys"]]
    assert len(keys) == len(set(keys)) == 24
    assert keys[: len(before)] == before
    metrics = lines(stage(run, "train") / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, len(metrics) + 1))
    assert [line["train/loss"] for line in metrics[:4]] == losses[:4]
    assert not fsck(str(run)).faults
    with readable_folder(run / "students" / "advdistill") as folder:
        AutoModelForCausalLM.from_pretrained(folder)
    assert write_report(str(run)) == str(run / "report.html")
    assert not Path("s3:").exists(), "nothing was taken for a folder of that name"
    planted = [file for file in run.walk() if b"planted-secret" in file.read_bytes()]
    assert not planted
