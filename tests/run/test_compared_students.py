"""A whole job with students of two models and two group sizes, and a model with its own shots."""

import json

import pytest
from support.jobs import lines_of, run_job, tiny_recipe, write_recipe
from support.models import make_tiny_model
from transformers import AutoConfig

from fastdistill_ray.groups.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_distill_trains_every_student_on_its_own_groups_and_asks_every_model(tmp_path, head):
    small = make_tiny_model(str(tmp_path / "small"))
    large = make_tiny_model(str(tmp_path / "large"), num_layers=3)
    shots = [{"question": "1 + 1?", "answer": "<think>2</think>\n<answer>\\boxed{2}</answer>"}]
    recipe = tiny_recipe(
        small,
        training={"epochs": 1, "overlap": True},
        compare={
            "students": [
                {"kind": "sft", "name": "sft_large", "model": large},
                {"kind": "advdistill", "name": "three", "group_size": 3},
            ],
            "baselines": [
                "base",
                {"name": "few_shot", "model": small, "prompt": {"shots": shots * 2}},
            ],
        },
    )
    run = tmp_path / "run"
    run_job("distill", write_recipe(tmp_path, recipe), run, head)

    students = ["advdistill", "sft_large", "three"]
    results = json.loads((run / "results.json").read_text())
    assert list(dict.fromkeys(row["model"] for row in results["rows"])) == [
        *("base", "few_shot"),
        *students,
    ]
    layers = [
        AutoConfig.from_pretrained(run / "students" / name).num_hidden_layers for name in students
    ]
    assert layers == [2, 3, 2]

    three = [
        row for table in Store(run / "stages/groups_of_3").tables() for row in table.to_pylist()
    ]
    kept = {row["problem_id"] for row in three if not row["dropped"]}
    sizes = {sum(one["weight"] is not None for one in row["completions"]) for row in three}
    assert (len(three), sizes) == (24, {3})
    steps = lines_of(run / "stages/train/three/lr_0.001/steps.jsonl")
    assert {key for step in steps for key in step["group_ids"]} == kept
    report = (run / "report.md").read_text()
    for label in ("Base student, 2 shots", "SFT on best completion, large", "3 completions"):
        assert label in report
