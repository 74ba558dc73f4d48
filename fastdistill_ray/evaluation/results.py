"""Trials of students, the choice among them on validation problems, and the results table."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from fastdistill_ray.evaluation.gaps import Gap, gap_recovered
from fastdistill_ray.evaluation.metrics import (
    MEASURED_OF,
    Row,
    accuracy_by_part,
    accuracy_by_seed,
    compare_rows,
    measure,
    summarize,
)
from fastdistill_ray.evaluation.statistics import holm
from fastdistill_ray.records import Problem
from fastdistill_ray.run_files import (
    ANSWERS,
    MANIFEST,
    METRICS,
    read_json,
    seed_name,
    write_json,
)
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet, read_rows

# Seconds of a step; a student that writes its own texts is waited for.
SPENT = ("time/step", "time/held_out", "time/waiting", "time/publish")


class Cost(NamedTuple):
    """What was spent in one folder: a training, up to a trial of it, or a store that was made for
    it, which others may have in common with it."""

    folder: str
    seconds: float = 0.0  # of training
    trained_tokens: int = 0
    scored_tokens: int = 0  # read by the model that the objective needs, if any, also before it
    signal_bytes: int = 0  # what was stored of its texts
    written_tokens: int = 0  # by students, for this training


COSTS = Cost._fields[1:]


def total(costs: Iterable[Cost]) -> dict[str, float]:
    """The sums of COSTS over folders; of several trials of one training the longest counts."""
    folders: dict[str, list[Cost]] = {}
    for cost in costs:
        folders.setdefault(cost.folder, []).append(cost)
    return {
        name: sum(max(getattr(cost, name) for cost in alike) for alike in folders.values())
        for name in COSTS
    }


class Trial(NamedTuple):
    """A student as it was at the end of an epoch of one training run."""

    student: str  # its name in the lineup
    learning_rate: float
    seed: int | None  # of its training, where it was trained with several
    epoch: int  # 1-based
    weights: str
    costs: tuple[Cost, ...] = ()  # of its training, of those it began as, and of what they read

    def after(self, other: "Trial") -> "Trial":
        """With the costs of the one that it began as."""
        return self._replace(costs=(*self.costs, *other.costs))

    @property
    def name(self) -> str:
        seed = "" if self.seed is None else f"_seed_{self.seed}"
        return f"{self.student}_lr_{self.learning_rate:g}{seed}_epoch_{self.epoch}"


def trials_in(
    out: Place, name: str, rate: float, seed: int | None, before: Sequence[Cost] = ()
) -> list[Trial]:
    """The exported students of a finished training with what each had cost by then, of which
    `before` was spent on what it was given."""
    facts = read_json(out / MANIFEST, {}).get("facts", {})
    given = total(before)
    read, size, written = (
        int(facts.get(fact, 0) - given[cost])
        for fact, cost in (
            ("signal_tokens", "scored_tokens"),
            ("signal_bytes", "signal_bytes"),
            ("written_tokens", "written_tokens"),
        )
    )
    lines = (out / METRICS).read_text().splitlines()
    metrics = [json.loads(line) for line in lines]

    def trial(folder: Place, epoch: int, spent: list[dict[str, float]]) -> Trial:
        own = Cost(
            folder=str(out),
            seconds=sum(line.get(name, 0.0) for line in spent for name in SPENT),
            trained_tokens=sum(int(line["train/trained_tokens"]) for line in spent),
            scored_tokens=read + sum(int(line.get("train/frozen_tokens", 0)) for line in spent),
            signal_bytes=size,
            written_tokens=written,
        )
        return Trial(name, rate, seed, epoch, str(folder), (own, *before))

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
    """Name of each student -> its best trial by strict accuracy on validation, averaged over seeds;
    ties go to the earlier one. Students of further seeds stand beside it by their own names.

    `validated`: folder of each trial's answers; without any there is one rate and epoch of each.
    """
    means = list(_means(trials, {trial: _score(trial, validated)[0] for trial in trials}))
    chosen = {}
    for name in dict.fromkeys(trial.student for trial in trials):
        alike = [one for one in means if one[0][0].student == name]
        assert validated or len(alike) == 1, alike
        first, *further = max(alike, key=lambda one: one[1] or 0.0)[0]
        chosen[name] = first
        chosen |= {seed_name(name, trial.seed or 0): trial for trial in further}
    return chosen


def _by_seed(trials: list[Trial]) -> list[list[Trial]]:
    """Those of each rate and each of its ends, one of every seed."""
    ends: dict[float, dict[int | None, list[Trial]]] = {}
    for trial in trials:
        ends.setdefault(trial.learning_rate, {}).setdefault(trial.seed, []).append(trial)
    return [list(alike) for by in ends.values() for alike in zip(*by.values(), strict=True)]


def _means(
    trials: list[Trial], scores: Mapping[Trial, float | None]
) -> Iterator[tuple[list[Trial], float | None]]:
    """Trials that differ by seed alone, and the mean of their accuracies."""
    for name in dict.fromkeys(trial.student for trial in trials):
        for alike in _by_seed([trial for trial in trials if trial.student == name]):
            known = [score for trial in alike if (score := scores[trial]) is not None]
            yield alike, sum(known) / len(known) if len(known) == len(alike) else None


def _score(trial: Trial, validated: Mapping[str, Place]) -> tuple[float | None, int]:
    """(strict accuracy on validation problems, their number)"""
    if not validated:
        return None, 0
    answers = read_parquet(validated[trial.name] / ANSWERS, ["problem_id", "verdict"])
    verdicts = answers["verdict"].to_pylist()
    share = verdicts.count("correct") / len(verdicts) if verdicts else None
    return share, len(answers["problem_id"].unique())


def write_choice(
    trials: list[Trial],
    validated: Mapping[str, Place],
    chosen: Mapping[str, Trial],
    *,
    out: Place,
) -> None:
    lines = []
    scores = {trial: _score(trial, validated) for trial in trials}
    accuracies = {trial: accuracy for trial, (accuracy, _) in scores.items()}
    means = {trial: mean for group, mean in _means(trials, accuracies) for trial in group}
    for trial, (accuracy, num_problems) in scores.items():
        lines.append(
            {
                "student": trial.student,
                "learning_rate": trial.learning_rate,
                "seed": trial.seed,
                "epoch": trial.epoch,
                "validation_accuracy": accuracy,
                "mean_accuracy": means[trial],  # over seeds, by which trials are chosen
                "num_problems": num_problems,
                **total(trial.costs),
                "chosen": trial in chosen.values(),
            }
        )
    write_json(out, {"trials": lines})


def write_results(
    folders: Mapping[str, Place],
    clusters: Mapping[str, str],
    main: str,
    chosen: Mapping[str, Trial],
    gaps: list[Gap],
    ensembles: Mapping[str, list[str]],
    *,
    out: Place,
) -> None:
    """results.json: metrics with 95 % intervals, paired differences, cost of each student, gaps.

    `folders`: of each model's answers; `clusters`: problem_id -> its cluster; `main`: whom the
    others are compared with; `ensembles`: name -> who votes. The students of one name and several
    seeds are one model.
    """
    answers: dict[str, list[Row]] = {}
    for name, folder in folders.items():
        trial = chosen.get(name)
        seed, model = (trial.seed or 0, trial.student) if trial else (0, name)
        answers.setdefault(model, []).extend(
            {**row, "training_seed": seed, "cluster": clusters.get(row["problem_id"], "")}
            for row in measured_answers(folder)
        )
    pairs = list(product(("test", "ood"), answers))
    differences = [
        row
        for split, other in pairs
        if other != main
        for row in compare_rows(answers[main], answers[other], model=main, minus=other, split=split)
    ]
    tree = {
        "rows": [row for split, model in pairs for row in summarize(answers[model], model, split)],
        "differences": adjust_for_all(differences),
        "parts": [
            row for split, model in pairs for row in accuracy_by_part(answers[model], model, split)
        ],
        "seeds": [
            row for split, model in pairs for row in accuracy_by_seed(answers[model], model, split)
        ],
        "costs": [*_costs(chosen), *_costs_together(chosen, ensembles)],
        "gaps": [
            row
            for split, gap in product(("test", "ood"), gaps)
            if (row := gap_recovered(gap, answers, split))
        ],
    }
    write_json(out, tree)


def _costs(chosen: Mapping[str, Trial]) -> list[dict[str, Any]]:
    """Of one training of each student, the mean of its seeds."""
    costs: list[dict[str, Any]] = []
    for name in dict.fromkeys(trial.student for trial in chosen.values()):
        own = [total(trial.costs) for trial in chosen.values() if trial.student == name]
        means = {cost: sum(one[cost] for one in own) / len(own) for cost in COSTS}
        whole = {cost: mean if cost == "seconds" else round(mean) for cost, mean in means.items()}
        costs.append({"model": name, **whole})
    return costs


def _costs_together(
    chosen: Mapping[str, Trial], ensembles: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    """Of all trainings of those that vote, each once: two may have begun as the same student."""
    return [
        {"model": name, **total(cost for one in of for cost in chosen[one].costs)}
        for name, of in ensembles.items()
    ]


def adjust_for_all(differences: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With p_holm: each p adjusted for all comparisons by the same metric, of every split."""
    adjusted = {}
    for metric in dict.fromkeys(row["metric"] for row in differences):
        places = [i for i, row in enumerate(differences) if row["metric"] == metric]
        ps = holm([differences[i]["p"] for i in places])
        adjusted |= dict(zip(places, ps, strict=True))
    return [{**row, "p_holm": adjusted[i]} for i, row in enumerate(differences)]


def measured_answers(folder: Place) -> Iterator[Row]:
    """What metrics are made of; texts are left behind as they are read."""
    return map(measure, read_rows(folder / ANSWERS, [*MEASURED_OF, "text"]))


def clusters_of(problems: Iterable[Problem]) -> dict[str, str]:
    """Of the problems that have others like them."""
    return {problem.problem_id: problem.cluster for problem in problems if problem.cluster}
