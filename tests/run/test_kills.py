"""kill -9 of a driver with its whole node: the next run has every group once, every step once."""

import pytest
from support.groups import commits_of
from support.jobs import (
    kill_with_children,
    lines_of,
    run_job,
    stage_folder,
    start_job,
    tiny_recipe,
    wait_for,
    write_recipe,
)
from support.models import make_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.long]


def paced(model: str, seconds: float) -> dict:
    """A teacher that answers one request after another, each in that time."""
    engine = {"kind": "scripted", "max_model_len": 1024, "max_num_seqs": 4}
    return {"model": model, "engine": {**engine, "extra": {"seconds_per_request": seconds}}}


def test_driver_killed_while_generating_asks_again_only_for_the_missing(tmp_path, head):
    model = make_tiny_model(str(tmp_path / "model"))
    recipe = write_recipe(
        tmp_path, tiny_recipe(model, teacher=paced(model, 0.5), task={"num_train": 16})
    )
    run = tmp_path / "run"
    job = start_job("generate", recipe, run)
    wait_for(lambda: len(commits_of(stage_folder(run, "groups"))) >= 4, job)
    kill_with_children(job)
    groups = stage_folder(run, "groups")
    before = [(line["file"], line["time"]) for line in commits_of(groups)]
    assert 4 <= len(before) < 16
    run_job("generate", recipe, run, head)
    (merged,) = commits_of(groups)
    after = [(file, time) for file, _, time in merged["parts"]]
    assert after[: len(before)] == before, "a committed group was asked again"
    assert [file.name for file in groups.glob("part-*")] == [merged["file"]]
    assert len(merged["keys"]) == len(set(merged["keys"])) == 16
    assert (groups / "manifest.json").exists()


@pytest.mark.slow
def test_driver_killed_while_training_overlapped_repeats_no_step_and_skips_none(tmp_path, head):
    """The teacher is slow enough for the kill to come while both go on."""
    model = make_tiny_model(str(tmp_path / "model"))
    training = {"overlap": True, "groups_per_step": 2, "checkpoint_every": 2}
    recipe = write_recipe(
        tmp_path, tiny_recipe(model, teacher=paced(model, 0.5), training=training)
    )
    run = tmp_path / "run"
    job = start_job("overlapped", recipe, run)
    wait_for(lambda: len(lines_of(stage_folder(run, "train") / "steps.jsonl")) >= 6, job)
    kill_with_children(job)
    out = stage_folder(run, "train")
    before = lines_of(out / "metrics.jsonl")
    assert not (out / "manifest.json").exists()
    run_job("overlapped", recipe, run, head)
    steps, metrics = lines_of(out / "steps.jsonl"), lines_of(out / "metrics.jsonl")
    assert [line["step"] for line in steps] == list(range(len(steps)))
    commits = commits_of(stage_folder(run, "groups"))
    keys = [key for commit in commits for key in commit["keys"]]
    assert len(keys) == len(set(keys)) == 24
    kept = [
        key
        for commit in commits
        for key, dropped in zip(commit["keys"], commit["dropped"], strict=True)
        if not dropped
    ]
    for epoch in range(2):
        trained = [key for line in steps if line["epoch"] == epoch for key in line["group_ids"]]
        assert sorted(trained) == sorted(kept)
    # The first steps, trained before the kill, were not trained again or changed.
    assert [line["train/loss"] for line in metrics[:4]] == [
        line["train/loss"] for line in before[:4]
    ]
