"""A whole run whose completions are judged by what most of them answer."""

import pytest
from support.jobs import run_job, stage_folder, tiny_recipe, write_recipe
from support.models import make_tiny_model

from fastdistill_ray.groups.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_votes_stand_for_answers_and_another_threshold_asks_no_teacher(tmp_path, head):
    model, run = make_tiny_model(str(tmp_path / "model")), tmp_path / "run"
    recipe = tiny_recipe(
        model,
        sampling={"n": 5},
        reward={"reference": "vote"},
        selection={"min_votes": 2},
        training={"epochs": 1},
    )
    run_job("distill", write_recipe(tmp_path, recipe), run, head)
    rows = [
        row for table in Store(stage_folder(run, "groups")).tables() for row in table.to_pylist()
    ]
    assert len(rows) == 24
    for row in rows:
        vote, completions = row["vote"], row["completions"]
        answers = [one["answer"] for one in completions if one["answer"]]
        assert vote["num_votes"] == len(answers)
        is_right = [one["verdict"] == "correct" for one in completions]
        assert sum(is_right) == round(vote["agreement"] * len(answers))
        assert vote["verdict"] == ("correct" if vote["answer"] == row["reference"] else "wrong")
    assert any(row["dropped"] == "low_agreement" for row in rows), "some are not clear"
    assert any(not row["dropped"] for row in rows)
    report = (run / "report.md").read_text()
    assert "completions abstained" in report and "| Clear enough |" in report

    recipe["selection"]["min_agreement"] = 0.9
    plan = run_job("distill", write_recipe(tmp_path, recipe), run, head)
    assert "take groups along" in plan
    stages = [one for one in (run / "stages" / "groups").iterdir() if one.name != "log"]
    assert len(stages) == 2
    for stage in stages:
        taken = [row["taken_from"] for table in Store(stage).tables() for row in table.to_pylist()]
        assert len(taken) == 24 and len({bool(name) for name in taken}) == 1
