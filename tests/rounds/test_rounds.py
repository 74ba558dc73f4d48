"""Whole jobs whose student writes what it is trained on, by a real vLLM engine beside training."""

import contextlib
import itertools
import json
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
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
from transformers import AutoModelForCausalLM

from fastdistill_ray.groups.shares import Rise, Shares
from fastdistill_ray.groups.signals import GroupSignals, arrays_of
from fastdistill_ray.groups.steps import DRAWN, drawn_signals
from fastdistill_ray.groups.store import Store
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import PromptKnobs, build_messages, render

pytestmark = [pytest.mark.ray, pytest.mark.long]
ENGINE = {"kind": "vllm", "max_model_len": 256, "max_num_seqs": 8, "dtype": "float32"}
ENGINE |= {"enforce_eager": True, "cpu_kv_cache_gib": 1}
TRAINING = {"groups_per_step": 2, "max_seq_len": 256}
SMALL = {"evaluation": {"engine": ENGINE, "max_new_tokens": 8}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make_tiny_model(str(folder / name), seed=seed) for seed, name in enumerate("ab")}


def recipe_of(models: dict[str, str], **changes: dict | list) -> dict:
    """Model a writes, model b says what it thinks of that; nobody writes groups for the store."""
    sections = {
        "teacher": {"model": models["b"], "engine": ENGINE},
        "sampling": {"n": 2, "max_new_tokens": 12},
        "objective": {"kind": "opd"},
        "rounds": {"count": 4, "n": 3},
        "training": TRAINING,
        "compare": {"baselines": []},
        **SMALL,
    }
    return tiny_recipe(models["a"], **{**sections, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, models: dict[str, str]) -> Path:
    """Killed -9 with all its processes once two rounds are trained, and started again."""
    folder = tmp_path_factory.mktemp("rounds")
    recipe = write_recipe(folder, recipe_of(models, training=TRAINING | {"checkpoint_every": 1}))
    job = start_job("distill", recipe, folder / "run")
    try:
        wait_for(lambda: len(steps_of(folder / "run")) >= 2, job)
    finally:
        kill_with_children(job)
    (folder / "before.json").write_text(json.dumps(groups_of(folder / "run")))
    run_job("distill", recipe, folder / "run")
    return folder / "run"


def steps_of(run: Path) -> list[dict]:
    return lines_of(stage_folder(run, "train") / "metrics.jsonl")


def groups_of(run: Path) -> list[dict]:
    store = Store(stage_folder(run, "train") / "groups")
    return [row for table in store.tables() for row in table.to_pylist()]


def test_each_round_is_written_by_the_student_that_the_last_one_made(run):
    groups = groups_of(run)
    assert [group["round"] for group in groups] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len({group["problem_id"] for group in groups}) == 8
    assert [line["rounds/version"] for line in steps_of(run)] == [0, 1, 2, 3]
    assert not (run / "stages/groups").exists(), "a teacher's text is paid for and not used"
    manifest = json.loads((stage_folder(run, "train") / "manifest.json").read_text())
    written = sum(one["num_tokens"] for group in groups for one in group["completions"])
    assert manifest["facts"]["written_tokens"] == written > 0
    (cost,) = json.loads((run / "results.json").read_text())["costs"]
    assert cost["written_tokens"] == written
    assert f"{written:,}" in (run / "report.md").read_text()
    assert not (stage_folder(run, "train") / "policies").exists()
    assert (run / "students/opd/config.json").exists()


def test_texts_that_were_there_when_it_was_killed_are_as_they_were_and_none_is_doubled(run):
    before = json.loads((run.parent / "before.json").read_text())
    assert len(before) >= 4
    after = json.loads(json.dumps(groups_of(run)))
    assert after[: len(before)] == before
    trained = [
        key
        for step in lines_of(stage_folder(run, "train") / "steps.jsonl")
        for key in step["group_ids"]
    ]
    assert trained == [group["problem_id"] for group in after]


def test_first_loss_is_the_mean_log_ratio_by_transformers_in_float64(run, models):
    """The first round is written by model a itself: the engine's probabilities are its own, every
    ratio is 1, and the loss is the mean of log q - log p over the tokens."""
    a, b = (
        AutoModelForCausalLM.from_pretrained(models[name], dtype=torch.float64) for name in "ab"
    )
    tokenizer = load_tokenizer(models["a"])
    total, num_tokens = 0.0, 0
    for table in itertools.islice(Store(stage_folder(run, "train") / "groups").tables(), 2):
        (group,) = table.to_pylist()
        messages = build_messages(group["question"], PromptKnobs(), group["options"])
        prompt = render(messages, tokenizer, PromptKnobs())
        noted = GroupSignals(arrays_of(drawn_signals(table, group["problem_id"])), DRAWN)
        for place, one in enumerate(group["completions"]):
            ids = one["token_ids"]
            own, other = (logprob_of(model, prompt, ids) for model in (a, b))
            assert np.allclose(noted.of(place, ids).values[:, 0], own, atol=1e-4)
            total, num_tokens = total + (own - other).sum(), num_tokens + len(ids)
    first = steps_of(run)[0]
    assert first["train/trained_tokens"] == num_tokens
    assert first["train/loss"] == pytest.approx(total / num_tokens, abs=1e-4)


@torch.no_grad()
def logprob_of(model: torch.nn.Module, prompt: list[int], ids: list[int]) -> np.ndarray:
    logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(ids)), ids].numpy()


@pytest.mark.slow
def test_texts_of_the_round_before_are_mixed_with_teachers_groups_on_two_ranks(models, tmp_path):
    """Each round's texts are written while the one before is trained; the other student of the run
    is trained on the teacher's groups as ever."""
    recipe = recipe_of(
        models,
        teacher={"model": models["b"], "engine": ENGINE},
        objective={"kind": "jsd"},
        rounds={"count": 3, "steps": 2, "n": 2, "staleness": 1, "mix": 0.5, "temperature": 0.7},
        selection={"min_correct": 0},
        compare={"students": [{"kind": "sft", "on": "all"}], "baselines": []},
        pools={"student": {"workers": 2, "cpus": 1.0}},
    )
    run_job("distill", write_recipe(tmp_path, recipe), tmp_path / "run")
    out = stage_folder(tmp_path / "run", "train", "jsd")
    store = Store(out / "groups")
    rounds = [row["round"] for table in store.tables() for row in table.to_pylist()]
    assert len(rounds) == 6
    for step, version in enumerate(rounds):
        assert step // 2 - 1 <= version <= step // 2, "one round behind at most"
    steps = lines_of(out / "steps.jsonl")
    own = set(store.keys())
    assert [len(own & set(step["group_ids"])) for step in steps] == [1] * 6
    assert [len(step["group_ids"]) for step in steps] == [2] * 6
    assert (tmp_path / "run/students/sft").exists()


def test_share_of_own_texts_grows_with_the_loss_and_goes_on_after_a_kill(models, tmp_path):
    """At a rate that changes no weight the loss stays, which without tolerance is a rise."""
    recipe = recipe_of(
        models,
        objective={"kind": "skew_kl"},
        rounds={"count": 6, "n": 2, "adaptive": {"rise": 0.2, "tolerance": 0}},
        optimizer={"learning_rate": 1e-30},
        selection={"min_correct": 0},
        training=TRAINING | {"checkpoint_every": 1, "held_out": {"share": 0.25, "every": 1}},
    )
    file, run = write_recipe(tmp_path, recipe), tmp_path / "run"
    job = start_job("distill", file, run)
    try:
        wait_for(lambda: len(steps_of(run)) >= 3, job)
    finally:
        kill_with_children(job)
    before = steps_of(run)
    run_job("distill", file, run)
    after = steps_of(run)
    losses = [[one["train/loss"] for one in steps[:3]] for steps in (before, after)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    shares = Shares("", 1, 6, 2, 0, Rise(0.2, 0))
    wrote, seen = [], 0
    for step, share in enumerate([0, 0.2, 0.4, 0.6, 0.8, 1]):
        sources = shares.sources(step, share, has_earlier=seen > 0)
        wrote.append((2 - sources.count("teacher")) / 2)
        seen += sources.count("new")
    assert [one["rounds/own"] for one in after] == wrote
    keys = list(Store(stage_folder(run, "train") / "groups").keys())
    trained = {
        key
        for one in lines_of(stage_folder(run, "train") / "steps.jsonl")
        for key in one["group_ids"]
    }
    assert len(keys) == seen and set(keys) <= trained


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, models: dict[str, str]) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_job("distill", write_recipe(folder, checkpointed(models)), folder / "run")
    return folder / "run"


def checkpointed(models: dict[str, str]) -> dict:
    return recipe_of(models, training=TRAINING | {"checkpoint_every": 1})


def children(job: subprocess.Popen, name: str) -> list[psutil.Process]:
    """Its processes that begin so."""
    found = []
    for one in psutil.Process(job.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(one.cmdline()).startswith(name):
                found.append(one)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("who", ["VLLM::EngineCore", "ray::RayTrainWorker", "driver"])
def test_texts_and_losses_are_the_same_whoever_is_killed_in_whichever_round(
    models, undisturbed, tmp_path, who, after
):
    """Who writes, who trains and asks the teacher, and the driver with its node: kill -9."""
    recipe = write_recipe(tmp_path, checkpointed(models))
    job = start_job("distill", recipe, tmp_path / "run")
    wait_for(lambda: len(steps_of(tmp_path / "run")) >= after, job)
    if who == "driver":
        kill_with_children(job)
    else:
        wait_for(lambda: children(job, who), job)
        for one in children(job, who):
            one.kill()
        job.wait()
    if job.returncode:  # else it started the process again by itself
        run_job("distill", recipe, tmp_path / "run")
    assert told(groups_of(tmp_path / "run")) == told(groups_of(undisturbed))
    losses = [
        [line["train/loss"] for line in steps_of(run)] for run in (tmp_path / "run", undisturbed)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def told(groups: list[dict]) -> list[tuple]:
    return [
        (group["problem_id"], group["round"], [one["token_ids"] for one in group["completions"]])
        for group in sorted(groups, key=lambda group: (group["round"], group["problem_id"]))
    ]
