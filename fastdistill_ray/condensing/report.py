"""Condensed sets and what learners got right -> condense.json and condense.md."""

from typing import Any

import numpy as np

from fastdistill_ray.condensing.condensed import SETS, Condensed, read_sets
from fastdistill_ray.condensing.encoder import read_embeddings
from fastdistill_ray.condensing.knobs import METHODS, AnyMethod, LearnerKnobs
from fastdistill_ray.condensing.learners import CONDENSED, LEARNERS, Tried, read_tried
from fastdistill_ray.condensing.matching import nearest_rows
from fastdistill_ray.condensing.texts import Labelled, read_texts
from fastdistill_ray.evaluation.statistics import difference, holm, interval
from fastdistill_ray.storage.place import Place

SHOWN = 10  # texts of each class


def results(
    method: AnyMethod,
    learners: LearnerKnobs,
    texts: Place,
    embeddings: Place,
    sets: Place,
    tried: Place,
) -> dict[str, Any]:
    """What condense.json holds. Accuracies are shares of test texts."""
    found, rows = read_texts(texts), read_tried(tried / LEARNERS)
    condensed = read_sets(sets / SETS)
    first = next(row for row in rows if row.name == CONDENSED)
    others = [row for row in rows if row is not first and not row.name.startswith(CONDENSED)]
    differences = [_difference(first, other) for other in others]
    adjusted = holm([one["p"] for one in differences])
    return {
        "method": method.model_dump(),
        "learners": learners.model_dump(),
        "classes": found["train"].classes,
        "num_train": len(found["train"].texts),
        "num_test": len(found["test"].texts),
        "accuracy": [_accuracy(row) for row in rows],
        "condensed_minus": [
            {**one, "p_holm": p} for one, p in zip(differences, adjusted, strict=True)
        ],
        "objective": [{"begun": one.begun, "ended": one.ended} for one in condensed],
        "rates": [one.rates for one in condensed],
        "texts": _shown(condensed[0], found["train"], embeddings),
    }


def page(found: dict[str, Any]) -> str:
    """condense.md"""
    method, num_train, num_test = found["method"], found["num_train"], found["num_test"]
    learners, kind = found["learners"], found["method"]["kind"]
    size = method["per_class"] * len(found["classes"])
    lines = [
        f"# {METHODS[kind].LABEL}: {size} for {num_train} texts",
        "",
        f"{len(found['classes'])} classes ({', '.join(found['classes'])}), {method['per_class']} "
        f"of each in a set. A row is what fresh linear heads get right of {num_test} test texts, "
        f"with a 95 % interval over test texts and sets (over test texts and learners where there "
        f"is one set). All make {learners['updates']} updates on their whole set at "
        f"{learners['learning_rate']:g}, but those with steps of their own.",
        "",
        "| learners of | size | sets x seeds | updates | accuracy % |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['name']} | {row['size']} | {row['sets']} x {row['seeds']} | {row['updates']} | "
        f"{_percent(row['value'], row['low'], row['high'])} |"
        for row in found["accuracy"]
    ]
    lines += ["", "| condensed minus | points | p | p adjusted |", "|---|---|---|---|"]
    lines += [
        f"| {one['name']} | {_percent(one['value'], one['low'], one['high'])} | {one['p']:.4f} | "
        f"{one['p_holm']:.4f} |"
        for one in found["condensed_minus"]
    ]
    fitted = [one for one in found["objective"] if one["begun"]]
    if fitted:
        begun, ended = (np.mean([one[name] for one in fitted]) for name in ("begun", "ended"))
        lines += [
            "",
            f"What is minimised went from {begun:.4f} to {ended:.4f} (first, last tenth).",
        ]
    lines += ["", f"## The first set, {found['texts']['what']}", ""]
    lines += [f"- {one['label']}: {one['text']}" for one in found["texts"]["rows"]]
    return "\n".join(lines) + "\n"


def _accuracy(row: Tried) -> dict[str, Any]:
    right = _table(row)
    table = np.stack([right, np.ones_like(right)], -1)
    found = interval(table, lambda totals: totals[:, 0] / totals[:, 1], bounds=(0.0, 1.0))
    assert found
    num_sets, num_seeds, _ = row.is_right.shape
    value, low, high = found
    said = {"name": row.name, "size": row.size, "sets": num_sets, "seeds": num_seeds}
    return {**said, "updates": row.updates, "value": value, "low": low, "high": high}


def _difference(first: Tried, second: Tried) -> dict[str, Any]:
    tables = _table(first), _table(second)
    value, low, high, p = difference(*tables, np.ones(len(tables[0])))
    return {"name": second.name, "value": value, "low": low, "high": high, "p": p}


def _table(row: Tried) -> np.ndarray:
    """[test texts, S]: S sets, each the mean of its learners; of one set its learners."""
    right = row.is_right.double().numpy()
    return (right.mean(axis=1) if len(right) > 1 else right[0]).T


def _shown(first: Condensed, train: Labelled, embeddings: Place) -> dict[str, Any]:
    """Its own texts where points have some, else the real ones nearest to its points."""
    what, texts = "its texts", first.texts
    if not texts:
        rows = nearest_rows(first.points, read_embeddings(embeddings)["train"].points)
        what = "as the real texts nearest to its points, with their class"
        texts = [f"{train.texts[row]} ({train.classes[train.labels[row]]})" for row in rows]
    shown, seen = [], dict.fromkeys(train.classes, 0)
    for label, text in zip(first.labels.tolist(), texts, strict=True):
        name = train.classes[label]
        seen[name] += 1
        if seen[name] <= SHOWN:
            shown.append({"label": name, "text": text})
    return {"what": what, "rows": shown}


def _percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"
