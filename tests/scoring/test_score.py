"""Whole jobs whose students learn from stored signals that a real vLLM engine made, and each signal
against transformers in float64."""

import json
from pathlib import Path

import numpy as np
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

from fastdistill_ray.groups.signals import GroupSignals, Signal, Signals, arrays_of
from fastdistill_ray.groups.store import Store
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import PromptKnobs, Shot, build_messages, render

pytestmark = [pytest.mark.ray, pytest.mark.long]
SHOTS = [{"question": "1 + 1?", "answer": "<think>2</think>\n<answer>\\boxed{2}</answer>"}]
TOPK, RANDOM, HIDDEN = Signal("topk", 20), Signal("random", 50), Signal("hidden", 16)
CHOSEN = Signal("chosen", by="student")
ENGINE = {"kind": "vllm", "max_model_len": 1024, "dtype": "float32", "enforce_eager": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make_tiny_model(str(folder / name), seed=seed) for seed, name in enumerate("ab")}


def recipe_of(models: dict[str, str], *students: dict, **changes: dict) -> dict:
    """Texts of a scripted teacher, scored by model b after worked examples."""
    first, *others = students
    return tiny_recipe(
        models["a"],
        scorer={"model": models["b"], "prompt": {"shots": SHOTS}, "engine": ENGINE},
        objective=first,
        training={"epochs": 1},
        compare={"students": others, "baselines": []},
        **{"task": {"num_train": 12}, **changes},
    )


def scored(run: Path, signal: Signal) -> dict[str, GroupSignals]:
    store = Store(stage_folder(run, "signals", signal.name))
    rows = [table.slice(i, 1) for table in store.tables() for i in range(table.num_rows)]
    return {row["problem_id"][0].as_py(): GroupSignals(arrays_of(row), signal) for row in rows}


def trained(run: Path) -> list[dict]:
    """Kept groups."""
    tables = Store(stage_folder(run, "groups")).tables()
    return [row for table in tables for row in table.to_pylist() if not row["dropped"]]


class Exact:
    """What a model says by transformers in float64, after the prompt of its role."""

    def __init__(self, folder: str, shots: list[dict]) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        self.tokenizer = load_tokenizer(folder)
        self.prompt = PromptKnobs(shots=[Shot(**shot) for shot in shots])

    def ids(self, completion: dict) -> list[int]:
        end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        ids = completion["token_ids"]
        is_open = completion["finish_reason"] == "stop" and ids[-1] != end
        return [*ids, end] if is_open else ids

    def logprob(self, row: dict, ids: list[int]) -> torch.Tensor:
        asked = render(build_messages(row["question"], self.prompt), self.tokenizer, self.prompt)
        with torch.no_grad():
            logits = self.model(torch.tensor([[*asked, *ids]])).logits
        return logits[0, len(asked) - 1 : -1].log_softmax(-1)


def check(run: Path, signal: Signal, exact: Exact) -> None:
    """Of every trained token of some groups; every kept group has signals."""
    rows, found = trained(run), scored(run, signal)
    assert set(found) == {row["problem_id"] for row in rows}
    drawn = []
    for row in rows[:4]:
        for place, completion in enumerate(row["completions"]):
            ids = exact.ids(completion)
            logprob = exact.logprob(row, ids)
            said = found[row["problem_id"]].of(place, ids)
            if signal.kind == "random":
                drawn.append(check_draws(said, logprob))
            else:
                CHECKS[signal.kind](said, logprob, torch.tensor(ids), exact)
    # The mean log-probability of a draw is minus the entropy.
    assert not drawn or abs(np.concatenate(drawn).mean()) < 0.05


def check_draws(said: Signals, logprob: torch.Tensor) -> np.ndarray:
    assert np.allclose(said.values.sum(1), 1)
    picked = logprob.gather(1, torch.from_numpy(said.ids).clamp(min=0)).numpy()
    entropy = -(logprob.exp() * logprob).sum(1).numpy()
    return (said.values * picked).sum(1) + entropy


def check_topk(said: Signals, logprob: torch.Tensor, _ids: torch.Tensor, _exact: Exact) -> None:
    top = logprob.topk(20)
    assert np.allclose(said.values, top.values, atol=1e-4)
    assert (torch.from_numpy(said.ids) == top.indices).float().mean() > 0.99
    rest = logprob.scatter(1, top.indices, -torch.inf).logsumexp(1)
    assert np.allclose(said.rest, rest, atol=1e-4)


def check_hidden(said: Signals, logprob: torch.Tensor, _ids: torch.Tensor, exact: Exact) -> None:
    """States are rounded to bfloat16."""
    again = torch.from_numpy(said.hidden).double() @ exact.model.lm_head.weight.T
    kl = (logprob.exp() * (logprob - again.log_softmax(1))).sum(1)
    assert kl.abs().max() < 1e-4


def check_chosen(said: Signals, logprob: torch.Tensor, ids: torch.Tensor, _exact: Exact) -> None:
    assert np.allclose(said.values[:, 0], logprob.gather(1, ids[:, None])[:, 0], atol=1e-4)


CHECKS = {"topk": check_topk, "hidden": check_hidden, "chosen": check_chosen}


def losses(run: Path, student: str) -> list[float]:
    folder = stage_folder(run, "train", student)
    trained_keys = [key for line in lines_of(folder / "steps.jsonl") for key in line["group_ids"]]
    assert sorted(trained_keys) == sorted(row["problem_id"] for row in trained(run))
    return [line["train/loss"] for line in lines_of(folder / "metrics.jsonl")]


def test_student_learns_from_the_likeliest_tokens_by_a_scorer_and_the_report_says_its_cost(
    tmp_path: Path, models: dict[str, str], head: str
) -> None:
    run = tmp_path / "run"
    run_job(
        "distill",
        write_recipe(tmp_path, recipe_of(models, {"kind": "topk_kl", "k": 20})),
        run,
        head,
    )
    check(run, TOPK, Exact(models["b"], SHOTS))
    assert np.isfinite(losses(run, "topk_kl")).all()
    manifest = json.loads((stage_folder(run, "signals") / "manifest.json").read_text())
    (cost,) = json.loads((run / "results.json").read_text())["costs"]
    assert cost["scored_tokens"] == manifest["prompt_tokens"] + manifest["completion_tokens"]
    assert cost["signal_bytes"] == manifest["facts"]["bytes"] > 0
    assert "Stored MiB" in (run / "report.md").read_text()


@pytest.mark.slow
def test_every_other_signal_is_what_transformers_says(
    tmp_path: Path, models: dict[str, str], head: str
) -> None:
    students = [
        {"kind": "forward_kl", "states": "bf16"},
        {"kind": "sampled_kl", "alpha": 0.1},
        {"kind": "dpo", "reference": "stored"},
    ]
    evaluation = {"engine": ENGINE, "max_new_tokens": 8}
    recipe = recipe_of(models, *students, evaluation=evaluation)
    run = tmp_path / "run"
    run_job("distill", write_recipe(tmp_path, recipe), run, head)
    scorer = Exact(models["b"], SHOTS)
    check(run, HIDDEN, scorer)
    check(run, RANDOM, scorer)
    check(run, CHOSEN, Exact(models["a"], []))
    for student in ("forward_kl", "sampled_kl"):
        assert np.isfinite(losses(run, student)).all()
    first = lines_of(stage_folder(run, "train", "dpo") / "metrics.jsonl")[0]
    assert first["train/loss"] == pytest.approx(np.log(2), abs=1e-4), "it is its own reference yet"


@pytest.mark.slow
def test_driver_killed_while_texts_are_scored_asks_again_only_about_the_missing(
    tmp_path: Path, models: dict[str, str], head: str
) -> None:
    recipe = recipe_of(models, {"kind": "topk_kl", "k": 20}, task={"num_train": 60})
    file, run, whole = write_recipe(tmp_path, recipe), tmp_path / "run", tmp_path / "whole"
    job = start_job("distill", file, run)
    wait_for(lambda: len(list(Store(stage_folder(run, "signals")).commits())) >= 2, job)
    kill_with_children(job)
    folder = stage_folder(run, "signals")
    before = [(commit.file, commit.time) for commit in Store(folder).commits()]
    assert not (folder / "manifest.json").exists()
    run_job("distill", file, run, head)
    (merged,) = Store(folder).commits()
    after = [(file, time) for file, _, time in merged.parts]
    assert after[: len(before)] == before, "a group was asked about again"
    assert len(merged.keys) == len(set(merged.keys)) == len(trained(run))
    check(run, TOPK, Exact(models["b"], SHOTS))
    run_job("distill", file, whole, head)
    assert losses(run, "topk_kl") == pytest.approx(losses(whole, "topk_kl"), rel=1e-4)
