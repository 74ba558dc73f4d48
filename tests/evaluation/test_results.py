"""The choice among trials: by strict accuracy on validation problems, ties to the earlier."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fastdistill_ray.evaluation.results import Trial, choose


def write_answers(folder: Path, trial: Trial, verdicts: str) -> None:
    names = {"c": "correct", "w": "wrong", "u": "unparsable"}
    rows = [{"problem_id": str(i), "verdict": names[each]} for i, each in enumerate(verdicts)]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{trial.name}.parquet")


def test_choose_takes_the_best_of_each_student_and_the_earlier_of_equals(tmp_path):
    trials = [
        Trial("advdistill", 2e-5, 1, "a", 1.0, 10),
        Trial("advdistill", 2e-5, 2, "b", 2.0, 20),
        Trial("advdistill", 5e-5, 1, "c", 1.0, 10),
        Trial("sft", 2e-5, 1, "d", 1.0, 10),
        Trial("sft", 5e-5, 1, "e", 1.0, 10),
    ]
    for trial, verdicts in zip(trials, ["cwwu", "ccww", "ccwu", "wwww", "cccw"], strict=True):
        write_answers(tmp_path, trial, verdicts)
    chosen = choose(trials, tmp_path, out=tmp_path / "choose.json")
    assert chosen == {"advdistill": trials[1], "sft": trials[4]}
    written = json.loads((tmp_path / "choose.json").read_text())["trials"]
    assert [line["validation_accuracy"] for line in written] == [0.25, 0.5, 0.5, 0.0, 0.75]
    assert [line["chosen"] for line in written] == [False, True, False, False, True]


def test_choose_without_validation_takes_the_only_trial_of_each(tmp_path):
    trials = [Trial("advdistill", 5e-6, 4, "a", 1.0, 10), Trial("sft", 5e-6, 4, "b", 1.0, 10)]
    chosen = choose(trials, None, out=tmp_path / "choose.json")
    assert chosen == {"advdistill": trials[0], "sft": trials[1]}
