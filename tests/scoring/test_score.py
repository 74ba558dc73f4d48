"""A whole job whose students learn from stored signals that a real vLLM engine made, and each
signal against transformers in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.jobs import lines_of, run_job, stage_folder, tiny_recipe, write_recipe
from support.models import make_tiny_model
from transformers import AutoModelForCausalLM

from fastdistill_ray.groups.signals import GroupSignals, Signal, Signals, arrays_of
from fastdistill_ray.groups.store import Store
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import PromptKnobs, Shot, build_messages, render

pytestmark = pytest.mark.ray
SHOTS = [{"question": "1 + 1?", "answer": "<think>2</think>\n<answer>\\boxed{2}</answer>"}]
SIGNALS = {
    "forward_kl": Signal("hidden", 16),
    "topk_kl": Signal("topk", 20),
    "sampled_kl": Signal("random", 50),
    "dpo": Signal("chosen", by="student"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make_tiny_model(str(folder / name), seed=seed) for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def run(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory, head: str) -> Path:
    folder = tmp_path_factory.mktemp("job")
    engine = {"kind": "vllm", "max_model_len": 1024, "dtype": "float32", "enforce_eager": True}
    recipe = tiny_recipe(
        models["a"],
        task={"num_train": 12},
        scorer={"model": models["b"], "prompt": {"shots": SHOTS}, "engine": engine},
        objective={"kind": "forward_kl", "states": "bf16"},
        training={"epochs": 1},
        compare={
            "students": [
                {"kind": "topk_kl", "k": 20},
                {"kind": "sampled_kl", "alpha": 0.1},
            ],
            "baselines": [],
        },
    )
    run = folder / "run"
    run_job("distill", write_recipe(folder, recipe), run, head)
    return run


def scored(run: Path, signal: Signal) -> dict[str, GroupSignals]:
    store = Store(stage_folder(run, "signals", signal.name))
    rows = [table.slice(i, 1) for table in store.tables() for i in range(table.num_rows)]
    return {row["problem_id"][0].as_py(): GroupSignals(arrays_of(row), signal) for row in rows}


def trained(run: Path) -> list[dict]:
    """Kept groups."""
    rows = [
        row for table in Store(stage_folder(run, "groups")).tables() for row in table.to_pylist()
    ]
    return [row for row in rows if not row["dropped"]]


def logits_of(model: torch.nn.Module, tokenizer: object, row: dict, ids: list[int]) -> torch.Tensor:
    prompt = PromptKnobs(shots=[Shot(**shot) for shot in SHOTS])
    asked = render(build_messages(row["question"], prompt), tokenizer, prompt)
    with torch.no_grad():
        return model(torch.tensor([[*asked, *ids]])).logits[0, len(asked) - 1 : -1]


def test_every_trained_token_is_scored_as_transformers_does_after_the_scorers_own_prompt(
    run: Path, models: dict[str, str]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(models["b"], dtype=torch.float64)
    tokenizer = load_tokenizer(models["b"])
    rows, weight = trained(run), model.lm_head.weight
    found = {kind: scored(run, signal) for kind, signal in list(SIGNALS.items())[:3]}
    assert all(set(one) == {row["problem_id"] for row in rows} for one in found.values())
    drawn, draws = 0.0, 0
    for row in rows[:4]:
        for place, completion in enumerate(row["completions"]):
            ids, end = completion["token_ids"], tokenizer.convert_tokens_to_ids("<|im_end|>")
            if completion["finish_reason"] == "stop" and ids[-1] != end:
                ids = [*ids, end]
            exact = logits_of(model, tokenizer, row, ids).log_softmax(-1)
            said: dict[str, Signals] = {
                kind: one[row["problem_id"]].of(place, ids) for kind, one in found.items()
            }
            states = torch.from_numpy(said["forward_kl"].hidden).double()
            again = (states @ weight.T).log_softmax(-1)
            assert (exact.exp() * (exact - again)).sum(-1).abs().max() < 1e-4  # bfloat16 states
            top = exact.topk(20)
            assert np.allclose(said["topk_kl"].values, top.values, atol=1e-4)
            assert (torch.from_numpy(said["topk_kl"].ids) == top.indices).float().mean() > 0.99
            rest = exact.scatter(1, top.indices, -torch.inf).logsumexp(-1)
            assert np.allclose(said["topk_kl"].rest, rest, atol=1e-4)
            shares = said["sampled_kl"].values
            assert np.allclose(shares.sum(1), 1) and len(shares) == len(ids)
            picked = exact.gather(1, torch.from_numpy(said["sampled_kl"].ids).clamp(min=0))
            drawn += float((torch.from_numpy(shares) * (picked + _entropy(exact)[:, None])).sum())
            draws += len(ids)
    assert abs(drawn / draws) < 0.05, "the mean log-probability of a draw is minus the entropy"


def _entropy(logprob: torch.Tensor) -> torch.Tensor:
    return -(logprob.exp() * logprob).sum(-1)


def test_students_are_trained_on_them_and_the_report_counts_what_was_read(run: Path) -> None:
    num_groups = len(trained(run))
    for kind in ("forward_kl", "topk_kl", "sampled_kl"):
        folder = stage_folder(run, "train", kind)
        steps = lines_of(folder / "steps.jsonl")
        assert sum(len(step["group_ids"]) for step in steps) == num_groups
        losses = [line["train/loss"] for line in lines_of(folder / "metrics.jsonl")]
        assert np.isfinite(losses).all()
        manifest = json.loads(
            (stage_folder(run, "signals", SIGNALS[kind].name) / "manifest.json").read_text()
        )
        assert manifest["rows_out"] == num_groups and manifest["facts"]["bytes"] > 0
