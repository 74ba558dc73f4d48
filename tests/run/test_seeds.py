"""A whole job whose students are trained with two seeds, of which the run has one already."""

import json

import pytest
from support.jobs import run_job, tiny_recipe, write_recipe
from support.models import make_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_more_seeds_reuse_what_is_trained_and_average_all(tmp_path, head):
    model = make_tiny_model(str(tmp_path / "model"))
    task = {"name": "word_problems", "num_train": 24, "num_test": 6, "num_validation": 6}
    compare = {"learning_rates": [1e-3, 2e-3], "baselines": ["base"]}
    recipe = tiny_recipe(model, task=task, compare=compare, training={"epochs": 1})
    run = tmp_path / "run"
    run_job("distill", write_recipe(tmp_path, recipe), run, head)
    first = {folder: folder.stat().st_mtime_ns for folder in (run / "stages/train").iterdir()}
    assert len(first) == 2

    recipe["compare"] = {**compare, "seeds": [0, 3]}
    run_job("distill", write_recipe(tmp_path, recipe), run, head)
    folders = set((run / "stages/train").iterdir())
    assert len(folders) == 4 and set(first) < folders
    graph = json.loads((run / "graph.json").read_text())
    reused = {name for name, folder in graph.items() if run / folder in first}
    assert reused == {f"train/advdistill-lr_{rate}-seed_0" for rate in ("0.001", "0.002")}
    assert {folder.name for folder in (run / "students").iterdir()} == {
        *("advdistill", "advdistill-seed_3")
    }
    trials = json.loads((run / "choose.json").read_text())["trials"]
    chosen = {(one["learning_rate"], one["seed"]) for one in trials if one["chosen"]}
    assert len(trials) == 4 and {seed for _, seed in chosen} == {0, 3}
    assert len({rate for rate, _ in chosen}) == 1
    results = json.loads((run / "results.json").read_text())
    assert {row["model"] for row in results["rows"]} == {"base", "advdistill"}
    assert [row["seed"] for row in results["seeds"] if row["split"] == "test"] == [0, 3]
    assert "Each seed's accuracy" in (run / "report.md").read_text()
