import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from support.run_folder import make_run

from fastdistill_ray.report.sections import write_report


def test_students_folder_has_a_card_whose_results_are_the_runs(tmp_path: Path) -> None:
    run = Path(make_run(str(tmp_path / "run")))
    folder, trial = run / "students" / "advdistill", tmp_path / "trial.md"
    folder.mkdir(parents=True)
    trial.write_text("the source's own card")
    (folder / "README.md").hardlink_to(trial)
    write_report(str(run))
    card = ModelCard.load(folder / "README.md")
    assert trial.read_text() == "the source's own card"
    rows = json.loads((run / "results.json").read_text())["rows"]
    expected = {
        row["split"]: row["value"]
        for row in rows
        if row["model"] == "advdistill" and row["metric"] == "accuracy"
    }
    found = {one.dataset_split: one.metric_value for one in card.data.eval_results or []}
    assert found == pytest.approx(expected) and len(found) == 2
    metadata = card.data.to_dict()
    assert metadata["base_model"] and metadata["library_name"] == "transformers"
    assert "| AdvDistill |" in card.text and "objective:" in card.text
    assert not (run / "students" / "sft").exists(), "no folder is made for a student without one"


def test_card_of_one_of_several_seeds_has_its_own_accuracy_not_the_mean(tmp_path: Path) -> None:
    run = Path(make_run(str(tmp_path / "run")))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["compare"]["seeds"] = [3, 5]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    results = json.loads((run / "results.json").read_text())
    (mean,) = [
        row
        for row in results["rows"]
        if (row["model"], row["split"], row["metric"]) == ("advdistill", "test", "accuracy")
    ]
    results["seeds"] = [{**mean, "seed": 3, "value": 0.25}, {**mean, "seed": 5, "value": 0.75}]
    (run / "results.json").write_text(json.dumps(results))
    for name in ("advdistill", "advdistill-seed_5"):
        (run / "students" / name).mkdir(parents=True)
    write_report(str(run))
    for name, seed, value in (("advdistill", 3, 0.25), ("advdistill-seed_5", 5, 0.75)):
        card = ModelCard.load(run / "students" / name / "README.md")
        found = {one.dataset_split: one.metric_value for one in card.data.eval_results or []}
        assert found["test"] == value
        assert f"trained with seed {seed}: {100 * value:.1f} % (" in card.text
