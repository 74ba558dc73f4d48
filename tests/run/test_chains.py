"""Students that learn from, begin as, or read what is written by one before them."""

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
from fastdistill_ray.rewards.selection import is_in

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
                {"kind": "born_again", "teacher": "sft", "knowledge": "permuted"},
            ],
            "ensembles": [{"name": "both", "of": ["second", "sft", "sft-seed_1"]}],
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
    assert depends["teacher"] == first.name
    loss = lines_of(second / "metrics.jsonl")[0]["loss/divergence"]
    assert loss == pytest.approx(reverse_kl(model, str(first / "epoch_1"), run, second), rel=1e-3)
    assert loss > 1e-4, "the first generation is not the base"

    begun = stage_folder(run, "train", "begun-lr_0.001-seed_1")
    depends = json.loads((begun / "stage.json").read_text())["inputs"]
    assert depends["start"] == first.name
    loss = lines_of(begun / "metrics.jsonl")[0]["loss/divergence"]
    assert abs(loss) < 1e-5, "it begins as its teacher"
    trials = json.loads((run / "choose.json").read_text())["trials"]
    cost = {one["student"]: one["trained_tokens"] for one in trials if one["seed"] == 1}
    assert cost["begun"] == 2 * cost["second"] == 2 * cost["sft"], "with what it began as"
    voted = json.loads((stage_folder(run, "answers", "both") / "stage.json").read_text())["inputs"]
    own = [folder.rpartition("-")[0] for folder in voted.values()]
    assert own == ["second", "sft", "sft-seed_1"]
    results = json.loads((run / "results.json").read_text())
    costs = {row["model"]: row["trained_tokens"] for row in results["costs"]}
    assert costs["both"] == 3 * costs["sft"]
    assert r"Vote of second, SFT, sft-seed\_1" in (run / "report.md").read_text()
    dpo = stage_folder(run, "train", "dpo-lr_0.001-seed_1")
    preference = lines_of(dpo / "metrics.jsonl")[0]["loss/preference"]
    assert preference == pytest.approx(math.log(2), abs=1e-6), "its reference is what it begins as"


def test_student_is_trained_on_what_the_one_before_it_writes_on_its_part_of_the_problems(
    tmp_path, head
):
    model = make_tiny_model(str(tmp_path / "model"))
    half = {"kind": "sft", "problems": [0.5, 1.0]}
    recipe = tiny_recipe(
        model,
        objective={"kind": "sft"},
        training={"epochs": 1},
        compare={
            "students": [
                {"kind": "sft", "name": "weak", "init": {"layers": [0]}, "problems": [0, 0.5]},
                {"name": "ceiling", **half},
                {"name": "strong", "writer": "weak", "labels": "vote", **half},
                {"name": "sure", "writer": "weak", "labels": "vote", "confidence": 0.5, **half},
            ],
            "seeds": [0, 1],
            "baselines": ["base"],
        },
    )
    run = tmp_path / "run"
    file = write_recipe(tmp_path, recipe)
    run_job("distill", file, run, head)

    weak = stage_folder(run, "train", "weak-lr_0.001-seed_1")
    strong = stage_folder(run, "train", "strong-lr_0.001-seed_1")
    (own,) = (run / "stages/student_groups").glob("by_weak-lr_0.001-seed_1-*")
    depends = json.loads((own / "stage.json").read_text())["inputs"]
    assert depends["writer"] == weak.name
    assert json.loads((strong / "stage.json").read_text())["inputs"]["groups"] == own.name
    groups = [group for table in Store(own).tables() for group in table.to_pylist()]
    assert groups and all(is_in((0.5, 1.0), group["problem_id"]) for group in groups)
    assert {group["teacher"] for group in groups} == {str(weak / "epoch_1")}
    assert all(group["vote"] for group in groups), "judged by each other"
    trained = {key for line in lines_of(strong / "steps.jsonl") for key in line["group_ids"]}
    assert trained and trained <= {group["problem_id"] for group in groups}
    others = {
        key
        for name in ("weak", "ceiling")
        for line in lines_of(stage_folder(run, "train", f"{name}-lr_0.001-seed_1") / "steps.jsonl")
        for key in line["group_ids"]
        if is_in((0.5, 1.0), key) == (name == "weak")
    }
    assert not others, "of the other half"
    written = sum(len(one["token_ids"]) for group in groups for one in group["completions"])
    trials = json.loads((run / "choose.json").read_text())["trials"]
    cost = {one["student"]: one["written_tokens"] for one in trials if one["seed"] == 1}
    assert cost == {"sft": 0, "weak": 0, "ceiling": 0, "strong": written, "sure": written}
    gaps = json.loads((run / "results.json").read_text())["gaps"]
    found = {(gap["student"], gap["writer"], gap["ceiling"]) for gap in gaps}
    assert found == {(name, "weak", "ceiling") for name in ("strong", "sure")}
    report = (run / "report.md").read_text()
    assert "Gap between writer and ceiling" in report and "Votes of the groups by weak" in report
    sure = lines_of(stage_folder(run, "train", "sure-lr_0.001-seed_1") / "metrics.jsonl")
    assert all(line["loss/confidence"] > 0 for line in sure)

    first = {path: path.stat().st_mtime_ns for path in run.glob("stages/*/*/manifest.json")}
    run_job("distill", file, run, head)
    again = {path: path.stat().st_mtime_ns for path in run.glob("stages/*/*/manifest.json")}
    assert again == first, "a second run finds everything there"


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
