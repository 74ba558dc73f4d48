"""Trials of students, the choice among them on validation problems, and the results table."""

import json
from pathlib import Path
from typing import NamedTuple

from fastdistill_ray.evaluation.answers import read_answers
from fastdistill_ray.evaluation.metrics import accuracy_by_part, compare_rows, is_correct, summarize
from fastdistill_ray.run_files import write_text


class Trial(NamedTuple):
    """A student as it was at the end of an epoch of one training run."""

    student: str  # its name in the lineup
    learning_rate: float
    epoch: int  # 1-based
    weights: str
    seconds: float  # of training up to here
    trained_tokens: int

    @property
    def name(self) -> str:
        return f"{self.student}_lr_{self.learning_rate:g}_epoch_{self.epoch}"


def choose(trials: list[Trial], validated: Path | None, *, out: Path) -> dict[str, Trial]:
    """The best trial of each student by strict accuracy on validation; ties go to the earlier one.

    Without validation (`validated` is None) there is one trial of each. Writes choose.json.
    """
    scores = {}
    for trial in trials:
        rows = read_answers(validated, trial.name) if validated else []
        correct = sum(is_correct(row) for row in rows)
        scores[trial] = (correct / len(rows) if rows else None, len(rows))
    chosen = {}
    for name in dict.fromkeys(trial.student for trial in trials):
        own = [trial for trial in trials if trial.student == name]
        assert validated or len(own) == 1, own
        chosen[name] = max(own, key=lambda trial: scores[trial][0] or 0.0)
    lines = [
        {
            "student": trial.student,
            "learning_rate": trial.learning_rate,
            "epoch": trial.epoch,
            "validation_accuracy": scores[trial][0],
            "num_problems": scores[trial][1],
            "seconds": trial.seconds,
            "trained_tokens": trial.trained_tokens,
            "chosen": chosen[trial.student] == trial,
        }
        for trial in trials
    ]
    write_text(out, json.dumps({"trials": lines}, indent=1))
    return chosen


def write_results(
    evaluated: Path, models: list[str], main: str, chosen: dict[str, Trial], *, out: Path
) -> None:
    """results.json: metrics with 95 % intervals, paired differences, cost of each student."""
    answers = {model: read_answers(evaluated, model) for model in models}
    splits = ("test", "ood")
    rows = [
        row
        for split in splits
        for model in models
        for row in summarize(answers[model], model, split)
    ]
    differences = [
        row
        for split in splits
        for other in models
        if other != main
        for row in compare_rows(answers[main], answers[other], model=main, minus=other, split=split)
    ]
    parts = [
        row
        for split in splits
        for model in models
        for row in accuracy_by_part(answers[model], model, split)
    ]
    costs = [
        {"model": name, "trained_tokens": trial.trained_tokens, "seconds": trial.seconds}
        for name, trial in chosen.items()
    ]
    tree = {"rows": rows, "differences": differences, "parts": parts, "costs": costs}
    write_text(out, json.dumps(tree, indent=1))
