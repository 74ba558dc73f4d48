"""The whole pipeline on a local Ray: real vLLM, two FSDP ranks, training beside generation."""

import json

import pytest
from peft import AutoPeftModelForCausalLM
from support.jobs import lines_of, run_job, tiny_recipe, write_recipe
from support.models import make_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def test_overlap_with_real_vllm_and_two_ranks_trains_before_the_last_commit(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    engine = {"max_model_len": 1024, "max_num_seqs": 4, "enforce_eager": True}
    engine |= {"dtype": "float32", "cpu_kv_cache_gib": 1}
    recipe = tiny_recipe(
        model,
        teacher={"model": model, "engine": engine},
        sampling={"n": 2, "max_new_tokens": 192, "seed": 5},
        selection={"min_correct": 0},
        training={"overlap": True, "groups_per_step": 3},
        pools={"student": {"workers": 2, "cpus": 1.0}},
    )
    run = tmp_path / "run"
    log = run_job("overlapped", write_recipe(tmp_path, recipe), run)

    commits = lines_of(run / "stages" / "groups" / "log.jsonl")
    keys = [key for commit in commits for key in commit["keys"]]
    assert len(keys) == len(set(keys)) == 24, "each problem is asked once"
    out = run / "stages" / "train" / "advdistill" / "lr_0.001"
    steps = lines_of(out / "steps.jsonl")
    assert steps[0]["time"] < commits[-1]["time"], "the first step precedes the last commit"
    for epoch in range(2):
        trained = [key for step in steps if step["epoch"] == epoch for key in step["group_ids"]]
        assert sorted(trained) == sorted(keys), "each kept group is trained once per epoch"
    assert trained != keys, "epoch 1 has an order of its own"
    assert [key for step in steps[:8] for key in step["group_ids"]] == keys, "arrival order"
    assert log.count("[MapBatches(Asking)]") == 1, "epoch 2 starts no engine"
    metrics = lines_of(out / "metrics.jsonl")
    assert metrics[-1]["train/loss"] < metrics[0]["train/loss"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["rows_in"] == 48
    exported = str(out / "epoch_2")
    AutoModelForCausalLM.from_pretrained(exported)
    assert AutoTokenizer.from_pretrained(exported).chat_template


def test_watched_run_keeps_the_best_step_and_shows_it(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    held_out = {"share": 0.2, "every": 2, "best_metric": "likelihood_gap"}
    lora = {"rank": 4}
    recipe = tiny_recipe(
        model,
        optimizer={"learning_rate": 1e-2},
        training={"held_out": held_out, "lora": lora, "checkpoint_every": 3},
    )
    run = tmp_path / "run"
    log = run_job("distill", write_recipe(tmp_path, recipe), run)
    out = run / "stages" / "train" / "advdistill" / "lr_0.01"
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
    (trial,) = json.loads((run / "stages" / "choose.json").read_text())["trials"]
    assert trial["epoch"] == metrics[best - 1]["epoch"] + 1
    assert trial["trained_tokens"] == sum(line["train/trained_tokens"] for line in metrics)
    student = run / "students" / "advdistill"
    AutoModelForCausalLM.from_pretrained(student)
    AutoPeftModelForCausalLM.from_pretrained(student / "adapter")
    report = (run / "report.html").read_text()
    assert 'aria-label="held_out"' in report
    assert 'aria-label="likelihood"' in report
