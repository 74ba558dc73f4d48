"""Differences between models of several runs, paired where they answered the same problems."""

from typing import Any, NamedTuple

from fastdistill_ray.evaluation.metrics import Row, paired_difference
from fastdistill_ray.evaluation.statistics import Difference, holm
from fastdistill_ray.report.conclusion import main_student
from fastdistill_ray.report.reading import Contents, student_entries
from fastdistill_ray.run_files import ANSWERS, seed_name
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_rows

METRIC = "accuracy"
COLUMNS = ["problem_id", "split", "k", "verdict", "lenient_verdict", "question", "reference"]


class Pair(NamedTuple):
    """A model of a run minus one of the first run."""

    letter: str
    model: str
    minus: str
    split: str
    difference: Difference


def paired(runs: dict[str, Contents]) -> list[Pair]:
    """Of every model that a run has by the name it has in the first, but for those whose answers
    are the same files, and of the runs' own students; p is adjusted for all of them."""
    (_, first), *others = runs.items()
    clusters = _clusters(first)  # of both: the same problems are drawn together
    found = []
    for letter, run in others:
        for model, minus in _models(run, first):
            own, other = _answers(run, model, clusters), _answers(first, minus, clusters)
            for split in dict.fromkeys(row["split"] for row in own):
                pair = _shared(own, other, split)
                if pair:
                    difference = paired_difference(*pair, METRIC)
                    found.append(Pair(letter, model, minus, split, difference))
    ps = holm([pair.difference.p for pair in found])
    return [
        pair._replace(difference=pair.difference._replace(p_holm=p))
        for pair, p in zip(found, ps, strict=True)
    ]


def _models(run: Contents, first: Contents) -> list[tuple[str, str]]:
    mine, theirs = (main_student(one.results, one.recipe) for one in (run, first))
    known = [
        model
        for model in run.results.models
        if model in first.results.models and (model != mine or mine == theirs)
    ]
    pairs = [(mine, theirs)] if mine and theirs and mine != theirs else []
    pairs += [(model, model) for model in known]
    return [pair for pair in pairs if _folders(run, pair[0]) != _folders(first, pair[1])]


def _folders(run: Contents, model: str) -> dict[int, Place]:
    """Training seed -> the answers; of a model that was not trained, of one seed."""
    first, *further = run.recipe["compare"].get("seeds") or [0]
    labels = {first: model}
    if model in student_entries(run.recipe):
        labels |= {seed: seed_name(model, seed) for seed in further}
    folders = {seed: run.stages.get(f"answers/{label}") for seed, label in labels.items()}
    return {
        seed: folder for seed, folder in folders.items() if folder and (folder / ANSWERS).exists()
    }


def _answers(run: Contents, model: str, clusters: dict[str, str]) -> list[Row]:
    return [
        {**row, "training_seed": seed, "cluster": clusters.get(row["problem_id"], "")}
        for seed, folder in _folders(run, model).items()
        for row in read_rows(folder / ANSWERS, COLUMNS)
    ]


def _clusters(run: Contents) -> dict[str, str]:
    if "problems" not in run.stages:
        return {}
    files = [file for file in run.stages["problems"].list() if file.name.endswith(".parquet")]
    return {
        row["problem_id"]: row["cluster"]
        for file in files
        for row in read_rows(file, ["problem_id", "cluster"])
        if row["cluster"]
    }


def _shared(own: list[Row], other: list[Row], split: str) -> tuple[list[Row], list[Row]] | None:
    """The rows of problems that stand in both with the same words."""
    both = [[row for row in rows if row["split"] == split] for rows in (own, other)]
    common = set.intersection(*({_problem(row) for row in rows} for rows in both))
    if not common:
        return None
    first, second = ([row for row in rows if _problem(row) in common] for rows in both)
    return first, second


def _problem(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["problem_id"], row["question"], row["reference"]
