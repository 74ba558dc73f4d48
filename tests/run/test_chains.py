"""Students that learn from, or begin as, the one before them as its training ended."""

import json
import math

import pytest
import torch
from support.jobs import lines_of, run_job, stage_folder, tiny_recipe, write_recipe
from support.models import make_tiny_model
from transformers import AutoModelForCausalLM

from fastdistill_ray.groups.store import Store
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import PromptKnobs, build_messages, render

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_second_generation_learns_from_the_first_as_it_was_at_its_end(tmp_path, head):
    model = make_tiny_model(str(tmp_path / "model"))
    recipe = tiny_recipe(
        model,
        objective={"kind": "sft", "on": "all"},
        optimizer={"schedule": "constant", "warmup_ratio": 0.0},
        training={"epochs": 1},
        compare={
            "students": [
                {"kind": "reverse_kl", "name": "second", "teacher": "sft"},
                {"kind": "reverse_kl", "name": "begun", "teacher": "sft", "start": "sft"},
                {"kind": "dpo", "start": "second", "reference": "live"},
            ],
            "seeds": [0, 1],
            "baselines": [],
        },
    )
    run = tmp_path / "run"
    file = write_recipe(tmp_path, recipe)
    run_job("distill", file, run, head)

    second = stage_folder(run, "train", "second-lr_0.001-seed_1")
    depends = json.loads((second / "stage.json").read_text())["inputs"]
    first = stage_folder(run, "train", "sft-lr_0.001-seed_1")
    assert depends["compare.students.0.teacher"] == first.name
    loss = lines_of(second / "metrics.jsonl")[0]["loss/divergence"]
    assert loss == pytest.approx(reverse_kl(model, str(first / "epoch_1"), run, second), rel=1e-3)
    assert loss > 1e-4, "the first generation is not the base"

    begun = stage_folder(run, "train", "begun-lr_0.001-seed_1")
    depends = json.loads((begun / "stage.json").read_text())["inputs"]
    assert depends["compare.students.1.start"] == first.name
    loss = lines_of(begun / "metrics.jsonl")[0]["loss/divergence"]
    assert abs(loss) < 1e-5, "it begins as its teacher"
    trials = json.loads((run / "choose.json").read_text())["trials"]
    cost = {one["student"]: one["trained_tokens"] for one in trials if one["seed"] == 1}
    assert cost["begun"] == 2 * cost["second"] == 2 * cost["sft"], "with what it began as"
    dpo = stage_folder(run, "train", "dpo-lr_0.001-seed_1")
    preference = lines_of(dpo / "metrics.jsonl")[0]["loss/preference"]
    assert preference == pytest.approx(math.log(2), abs=1e-6), "its reference is what it begins as"


@torch.no_grad()
def reverse_kl(base: str, former: str, run, second) -> float:
    """The mean over the first step's tokens, by transformers in float64."""
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.float64) for one in (base, former)
    )
    tokenizer, keys = load_tokenizer(base), lines_of(second / "steps.jsonl")[0]["group_ids"]
    total = num_tokens = 0
    for table in Store(stage_folder(run, "groups")).tables():
        for group in table.to_pylist():
            if group["problem_id"] not in keys:
                continue
            messages = build_messages(group["question"], PromptKnobs(), group["options"])
            prompt = render(messages, tokenizer, PromptKnobs())
            for one in group["completions"]:
                ids = [*one["token_ids"], tokenizer.eos_token_id]  # what was sampled, and its end
                row = torch.tensor([[*prompt, *ids]])
                lq, lp = (
                    model(row).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                    for model in (student, teacher)
                )
                total += (lq.exp() * (lq - lp)).sum().item()
                num_tokens += len(ids)
    return total / num_tokens
