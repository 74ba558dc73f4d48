import json
from pathlib import Path

import pytest
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
    assert card.data.base_model and card.data.library_name == "transformers"
    assert "| AdvDistill |" in card.text and "objective:" in card.text
    assert not (run / "students" / "sft").exists(), "no folder is made for a student without one"
