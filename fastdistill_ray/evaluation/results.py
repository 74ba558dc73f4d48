"""Trials of students, the choice among them on validation problems, and the results table."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fastdistill_ray.evaluation.metrics import accuracy_by_part, compare_rows, is_correct, summarize
from fastdistill_ray.evaluation.statistics import holm
from fastdistill_ray.records import Problem
from fastdistill_ray.run_files import ANSWERS, METRICS, write_json
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet


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


def trials_in(out: Place, name: str, rate: float) -> list[Trial]:
    """The exported students of a finished training with what each had cost by then."""
    lines = (out / METRICS).read_text().splitlines()
    metrics = [json.loads(line) for line in lines]

    def trial(folder: Place, epoch: int, spent: list[dict[str, float]]) -> Trial:
        return Trial(
            student=name,
            learning_rate=rate,
            epoch=epoch,
            weights=str(folder),
            seconds=sum(line["time/step"] + line.get("time/held_out", 0.0) for line in spent),
            trained_tokens=sum(int(line["train/trained_tokens"]) for line in spent),
        )

    trials = []
    exported = {name: sorted(_exports(out, name), key=_number) for name in ("epoch_", "best_step_")}
    for folder in exported["epoch_"]:
        epoch = _number(folder)
        trials.append(trial(folder, epoch, [line for line in metrics if line["epoch"] < epoch]))
    for folder in exported["best_step_"]:
        (best,) = (line for line in metrics if line["step"] == _number(folder))
        # Its cost is that of the whole training: that it is the best, the later steps had to show.
        trials.append(trial(folder, best["epoch"] + 1, metrics))
    return trials


def _exports(out: Place, prefix: str) -> list[Place]:
    return [folder for folder in out.list() if folder.name.startswith(prefix)]


def _number(folder: Place) -> int:
    return int(folder.name.rpartition("_")[2])


def choose(trials: list[Trial], validated: Mapping[str, Place]) -> dict[str, Trial]:
    """The best trial of each student by strict accuracy on validation; ties go to the earlier one.

    `validated`: folder of each trial's answers; without any there is one trial of each student.
    """
    scores = {trial: _score(trial, validated)[0] or 0.0 for trial in trials}
    chosen = {}
    for name in dict.fromkeys(trial.student for trial in trials):
        own = [trial for trial in trials if trial.student == name]
        assert validated or len(own) == 1, own
        chosen[name] = max(own, key=lambda trial: scores[trial])
    return chosen


def _score(trial: Trial, validated: Mapping[str, Place]) -> tuple[float | None, int]:
    """(strict accuracy on validation problems, their number)"""
    rows = read_answers(validated[trial.name]) if validated else []
    return sum(map(is_correct, rows)) / len(rows) if rows else None, len(rows)


def write_choice(
    trials: list[Trial],
    validated: Mapping[str, Place],
    chosen: Mapping[str, Trial],
    *,
    out: Place,
) -> None:
    lines = []
    for trial in trials:
        accuracy, num_problems = _score(trial, validated)
        lines.append(
            {
                "student": trial.student,
                "learning_rate": trial.learning_rate,
                "epoch": trial.epoch,
                "validation_accuracy": accuracy,
                "num_problems": num_problems,
                "seconds": trial.seconds,
                "trained_tokens": trial.trained_tokens,
                "chosen": chosen[trial.student] == trial,
            }
        )
    write_json(out, {"trials": lines})


def write_results(
    evaluated: Mapping[str, Mapping[int, Place]],
    clusters: Mapping[str, str],
    main: str,
    costs: list[dict[str, Any]],
    *,
    out: Place,
) -> None:
    """results.json: metrics with 95 % intervals, paired differences, cost of each student.

    `evaluated`: of each model, training seed -> folder of its answers; `clusters`: problem_id ->
    its cluster; `main`: whom the others are compared with.
    """
    models = list(evaluated)
    answers = {
        model: [
            {**row, "training_seed": seed, "cluster": clusters.get(row["problem_id"], "")}
            for seed, folder in folders.items()
            for row in read_answers(folder)
        ]
        for model, folders in evaluated.items()
    }
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
    adjusted = adjust_for_all(differences)
    tree = {"rows": rows, "differences": adjusted, "parts": parts, "costs": costs}
    write_json(out, tree)


def adjust_for_all(differences: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With p_holm: each p adjusted for all comparisons by the same metric, of every split."""
    adjusted = {}
    for metric in dict.fromkeys(row["metric"] for row in differences):
        places = [i for i, row in enumerate(differences) if row["metric"] == metric]
        ps = holm([differences[i]["p"] for i in places])
        adjusted |= dict(zip(places, ps, strict=True))
    return [{**row, "p_holm": adjusted[i]} for i, row in enumerate(differences)]


def read_answers(folder: Place) -> list[dict[str, Any]]:
    return read_parquet(folder / ANSWERS).to_pylist()


def clusters_of(problems: Iterable[Problem]) -> dict[str, str]:
    """Of the problems that have others like them."""
    return {problem.problem_id: problem.cluster for problem in problems if problem.cluster}
