"""What a run folder holds, read as plain numbers and a few examples. Judges and renders nothing.

Texts are read only of the few groups and problems shown.
"""

import json
import re
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import yaml

from fastdistill_ray.errors import UserError
from fastdistill_ray.evaluation.statistics import Difference, Estimate
from fastdistill_ray.groups.store import Store
from fastdistill_ray.report.group_numbers import GroupNumbers, read_group_numbers
from fastdistill_ray.run_files import (
    ANSWERS,
    CHOICE,
    MANIFEST,
    MEMORY,
    METRICS,
    RECIPE,
    RESULTS,
    STAGE,
    STAGES,
    STEPS,
    VERSIONS,
    read_json,
    run_of,
    stage_folders,
)
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import open_parquet, read_parquet

Values = TypeVar("Values", Estimate, Difference)
TRAINING = re.compile(r"train/(.+)-lr_([-+.e\d]+?)(?:-seed_(\d+))?")  # the name of its stage
BASELINES = ("base_plain", "base", "teacher")  # in the order of the report


class Results(NamedTuple):
    """results.json by key."""

    rows: dict[tuple[str, str, str], Estimate]  # model, split, metric
    differences: dict[tuple[str, str, str, str], Difference]  # model, minus, split, metric
    costs: dict[str, dict[str, float]]
    parts: dict[tuple[str, str, str], Estimate] = {}  # model, split, sort of problem
    seeds: dict[tuple[str, str, int], Estimate] = {}  # model, split, training seed: accuracy
    gaps: list[dict[str, Any]] = []  # as `evaluation.gaps` has them

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(model for model, _, _ in self.rows))

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(split for _, split, _ in self.rows))

    def most_problems(self, split: str) -> int:
        """Of a split that a model has answered, at most."""
        found = (one.num_problems for key, one in self.rows.items() if key[1] == split)
        return max(found, default=0)


class Timeline(NamedTuple):
    """What was done by when, as (seconds of the clock, share done) per stage."""

    generation: tuple[np.ndarray, np.ndarray]
    trainings: dict[str, tuple[np.ndarray, np.ndarray]]


class Training(NamedTuple):
    student: str
    learning_rate: float
    seed: int | None  # where there are several
    steps: dict[str, tuple[np.ndarray, np.ndarray]]  # quantity -> steps, values


class Contents(NamedTuple):
    """What one recipe said and found in a run folder."""

    path: Place
    stages: dict[str, Place]  # name -> folder
    recipe: dict[str, Any]
    recipe_text: str
    versions: dict[str, str]
    results: Results
    trials: list[dict[str, Any]]
    manifests: list[dict[str, Any]]
    trainings: list[Training]
    timeline: Timeline
    groups: GroupNumbers | None
    answers: dict[str, pa.Table]  # model -> judged answers, without their texts
    memory: dict[str, dict[str, int]]  # student's model -> bytes of a rank by purpose, as planned


def read_run(view: str | Place) -> Contents:
    """Everything the report needs, of a run folder or of a recipe's folder in it; only recipe.yaml
    must exist."""
    path = Place(view)
    recipe, text = read_recipe(path)
    order = models_of(recipe)
    stages = of_one_run(path)
    return Contents(
        path=path,
        stages=stages,
        recipe=recipe,
        recipe_text=text,
        versions=read_json(path / VERSIONS, {}),
        results=read_results(path, recipe),
        trials=read_json(path / CHOICE, {"trials": []})["trials"],
        manifests=_read_manifests(stages),
        trainings=_read_trainings(stages, order),
        timeline=_read_timeline(stages),
        groups=read_group_numbers(stages["groups"]) if "groups" in stages else None,
        answers=_read_answers(stages, order),
        memory=read_json(path / MEMORY, {}),
    )


def of_one_run(view: Place) -> dict[str, Place]:
    """The stages that the recipe has come to, but for those made from one in whose place it has
    another by now, because a file or folder that it names holds something else."""
    stages, root = stage_folders(view), run_of(view)
    there = [folder for kind in (root / STAGES).list() for folder in kind.list()]
    own = set(stages.values())
    taken = set(map(_place_of, own))
    old = {one for one in there if one not in own and _place_of(one) in taken}
    inputs = {folder: inputs_of(folder) for folder in own}
    while later := {
        folder for folder in own - old if any(is_made_from(inputs[folder], one) for one in old)
    }:
        old |= later
    return {name: folder for name, folder in stages.items() if folder not in old}


def _place_of(stage: Place) -> tuple[str, str]:
    """Kind and label, which two of its kind may have in turn."""
    return stage.parent.name, stage.name.rpartition("-")[0]


def inputs_of(stage: Place) -> dict[str, str]:
    found = read_json(stage / STAGE, {}).get("inputs", {})
    return {name: str(value) for name, value in found.items()}


def is_made_from(inputs: dict[str, str], stage: Place) -> bool:
    """Whether an input is the stage's folder by name, or the path of it or of a student in it."""
    path = f"{STAGES}/{stage.parent.name}/{stage.name}/"
    return any(one == stage.name or f"{one}/".startswith(path) for one in inputs.values())


def read_recipe(view: Place) -> tuple[dict[str, Any], str]:
    """(the recipe, its text)"""
    file = view / RECIPE
    if not file.is_file():
        raise UserError(f"run folder {view}: no {RECIPE} in it; is it a run's folder?")
    try:
        text = file.read_text()
        return yaml.safe_load(text), text
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{file}: not the recipe of a run, not YAML: {why}") from error


def _read_manifests(stages: dict[str, Place]) -> list[dict[str, Any]]:
    """Manifests of complete stages, by this recipe's names for them, in the order they finished."""
    found = {
        folder: {**read_json(folder / MANIFEST, {}), "stage": name}
        for name, folder in stages.items()
        if (folder / MANIFEST).exists()
    }
    return sorted(found.values(), key=lambda manifest: manifest["finished"])


def _trainings_in(stages: dict[str, Place]) -> list[tuple[str, str, int | None, Place]]:
    """(student, learning rate as written, seed where there are several, folder) of each."""
    found = []
    for name, folder in sorted(stages.items()):
        if match := TRAINING.fullmatch(name):
            student, rate, seed = match.groups()
            found.append((student, rate, None if seed is None else int(seed), folder))
    return found


def _read_timeline(stages: dict[str, Place]) -> Timeline:
    commits = [
        (time, rows)
        for commit in (Store(stages["groups"]).commits() if "groups" in stages else ())
        for rows, time in commit.arrivals
    ]
    trainings = {}
    for student, rate, seed, folder in _trainings_in(stages):
        events = _step_events(folder / STEPS) if (folder / STEPS).exists() else []
        if events:
            name = f"{student} {rate}" if seed is None else f"{student} {rate} seed {seed}"
            trainings[name] = _done(events)
    return Timeline(_done(commits), trainings)


def _step_events(file: Place) -> list[tuple[float, int]]:
    """When the first step began, then when each one ended."""
    ends = [json.loads(line)["time"] for line in file.read_text().splitlines()]
    if not ends:
        return []
    first = file.with_name(METRICS).read_text().partition("\n")[0]
    begin = ends[0] - json.loads(first)["time/step"]
    return [(begin, 0), *((end, 1) for end in ends)]


def _done(events: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    times, amounts = (
        (np.array(column, float) for column in zip(*events, strict=True))
        if events
        else (np.empty(0), np.empty(0))
    )
    return times, np.cumsum(amounts) / max(amounts.sum(), 1)


def baseline_names(recipe: dict[str, Any]) -> list[str]:
    """Those that the recipe compares with, in the order of the report."""
    given = recipe["compare"]["baselines"]
    named = [entry["name"] for entry in given if not isinstance(entry, str)]
    return [*(name for name in BASELINES if name in given), *named]


def models_of(recipe: dict[str, Any]) -> list[str]:
    """All models, as the report has them."""
    return [*baseline_names(recipe), *ensemble_entries(recipe), *student_entries(recipe)]


def has_chosen_step(recipe: dict[str, Any]) -> bool:
    """Whether held-out groups choose the step of a training that is its student."""
    return recipe["training"]["held_out"]["best_metric"] != "none"


def ensemble_entries(recipe: dict[str, Any]) -> dict[str, list[str]]:
    """Name of each ensemble -> the students that vote."""
    return {entry["name"]: entry["of"] for entry in recipe["compare"].get("ensembles", [])}


def student_entries(recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each student's name and what the recipe says of it, the recipe's own last."""
    others = {entry["name"] or entry["kind"]: entry for entry in recipe["compare"]["students"]}
    plain = {"name": "", "model": "", "group_size": None, "teacher": ""}
    own = {**plain, "rounds": recipe.get("rounds"), **recipe["objective"]}
    return {**others, own["kind"]: own}


def first_model(name: str, recipe: dict[str, Any]) -> tuple[str, list[int]]:
    """(the model whose weights a student began with, those of its blocks that were kept, [] for
    all): its own, else that of the student that it began as, else the recipe's."""
    entries = student_entries(recipe)
    entry = entries[name]
    while not (entry["model"] or _layers(entry)) and entry.get("start"):
        entry = entries[entry["start"]]
    own = recipe["student"]
    if entry["model"] or _layers(entry):
        return entry["model"] or own["model"], _layers(entry)
    return own["model"], _layers(own)


def _layers(entry: dict[str, Any]) -> list[int]:
    return (entry.get("init") or {}).get("layers") or []


def _place(model: str, order: list[str]) -> int:
    """Unknown ones come last."""
    return order.index(model) if model in order else len(order)


def read_results(view: Place, recipe: dict[str, Any]) -> Results:
    """Those of the recipe that a view is of, models in its order."""
    file, order = view / RESULTS, models_of(recipe)
    empty = {"rows": [], "differences": [], "parts": [], "seeds": [], "costs": [], "gaps": []}
    tree = {**empty, **read_json(file, {})}
    rows = sorted(tree["rows"], key=lambda row: _place(row["model"], order))
    try:
        return Results(
            rows={(r["model"], r["split"], r["metric"]): _values(Estimate, r) for r in rows},
            differences={
                (r["model"], r["minus"], r["split"], r["metric"]): _values(Difference, r)
                for r in tree["differences"]
            },
            costs={cost["model"]: cost for cost in tree["costs"]},
            parts={
                (r["model"], r["split"], r["part"]): _values(Estimate, r) for r in tree["parts"]
            },
            seeds={
                (r["model"], r["split"], r["seed"]): _values(Estimate, r) for r in tree["seeds"]
            },
            gaps=tree["gaps"],
        )
    except KeyError as error:
        raise UserError(
            f"{file}: no {error} in it, an older version wrote it; run fastdistill evaluate"
        ) from error


def _values(kind: type[Values], row: dict[str, Any]) -> Values:
    return kind(**{name: row[name] for name in kind._fields})


def _read_trainings(stages: dict[str, Place], order: list[str]) -> list[Training]:
    trainings = [
        Training(student, float(rate), seed, _read_steps(folder / METRICS))
        for student, rate, seed, folder in _trainings_in(stages)
        if (folder / METRICS).exists()
    ]
    return sorted(
        trainings,
        key=lambda one: (_place(one.student, order), one.learning_rate, one.seed or 0),
    )


def _read_steps(file: Place) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    # A resumed training logs its last steps again: the later line counts.
    lines: dict[int, dict[str, float]] = {}
    for number, text in enumerate(file.read_text().splitlines(), start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{file}:{number}: not JSON; remove the line") from error
        lines[line["step"]] = line
    names = dict.fromkeys(name for line in lines.values() for name in line if "/" in name)
    series = {}
    for name in names:
        steps = [step for step in sorted(lines) if lines[step].get(name) is not None]
        series[name] = (np.array(steps), np.array([lines[step][name] for step in steps], float))
    return series


def _read_answers(stages: dict[str, Place], order: list[str]) -> dict[str, pa.Table]:
    columns = ["problem_id", "split", "k", "num_tokens", "verdict", "lenient_verdict"]
    files = {
        model: stages[f"answers/{model}"] / ANSWERS
        for model in order
        if f"answers/{model}" in stages
    }
    # A file without rows has no columns either.
    return {
        model: read_parquet(file, columns)
        for model, file in files.items()
        if file.exists() and _num_rows(file)
    }


def _num_rows(file: Place) -> int:
    with open_parquet(file) as answers:
        return answers.metadata.num_rows
