"""The few lines a reader needs: what the numbers of a run say, in plain words. Pure.

Says "beats" only where the p of the paired difference, adjusted for all comparisons, is below 0.05.
"""

import os
from typing import Any

from fastdistill_ray.evaluation.statistics import Difference, Estimate
from fastdistill_ray.objectives import OBJECTIVES, AnyObjective
from fastdistill_ray.report.colours import model_colours
from fastdistill_ray.report.reading import (
    Results,
    baseline_names,
    ensemble_entries,
    models_of,
    student_entries,
)

LEVEL = 0.05
MANY = 4  # rivals of whom sentences tell; more are told by numbers, and by a table


def conclusion(results: Results, recipe: dict[str, Any]) -> list[str]:
    """A line for each split, then what holds for all of them."""
    student = main_student(results, recipe)
    if student is None:
        return ["No student of this run has been evaluated yet."]
    lines = [
        _split_line(results, student, split, recipe)
        for split in results.splits
        if (student, split, "accuracy") in results.rows
    ]
    if number := sum(metric == "accuracy" for *_, metric in results.differences):
        which = "the only comparison" if number == 1 else f"all {number} comparisons"
        lines.append(
            f"It beats, or is worse, where p is below {LEVEL:g} after adjustment for {which} of "
            "accuracies (Holm). Differences below has each p and interval; no interval is adjusted."
        )
    lines += _format_sentence(results, student) + _above_teacher(results, recipe)
    if has_same_weights(recipe):
        lines.append("Teacher and base are the same weights: this is prompt distillation.")
    return lines


def main_student(results: Results, recipe: dict[str, Any]) -> str | None:
    """The student of the recipe's own objective, or another where that was not evaluated."""
    others = {*baseline_names(recipe), *ensemble_entries(recipe)}
    students = [model for model in results.models if model not in others]
    kind = recipe["objective"]["kind"]
    return kind if kind in students else next(iter(students), None)


def has_same_weights(recipe: dict[str, Any]) -> bool:
    teacher, student = (_resolve(recipe[part]["model"]) for part in ("teacher", "student"))
    return teacher == student and not blocks_kept(recipe)


def blocks_kept(recipe: dict[str, Any]) -> int:
    """Decoder blocks that the student begins with, where they are not all of its model's."""
    return len(recipe["student"].get("init", {}).get("layers", []))


def model_label(model: str, recipe: dict[str, Any]) -> str:
    """No two models of a recipe have the same: where they would, with the model's name."""
    label = _label(model, recipe)
    others = (_label(other, recipe) for other in models_of(recipe) if other != model)
    return f"{label} ({model})" if label in others else label


def _label(model: str, recipe: dict[str, Any]) -> str:
    shots = len(recipe["teacher"]["prompt"]["shots"])
    labels = {
        "base_plain": "Base student, plain prompt",
        "base": "Base student",
        "teacher": f"Teacher, {_shots(shots)}" if shots else "Teacher",
    }
    students = student_entries(recipe)
    if model in students:
        return _student_label(model, students[model])
    if voters := ensemble_entries(recipe).get(model):
        return f"Vote of {', '.join(map(short_name, voters))}"
    for other in recipe["compare"]["baselines"]:
        if not isinstance(other, str) and other["name"] == model:
            return _compared_label(other, recipe)
    return labels.get(model, model)


def model_colour(model: str, recipe: dict[str, Any]) -> str:
    """No two models of a recipe have the same, as far as there are colours."""
    return model_colours(
        (*baseline_names(recipe), *student_entries(recipe), *ensemble_entries(recipe), model)
    )[model]


def _student_label(name: str, entry: dict[str, Any]) -> str:
    """By what sets it apart from the recipe's own: model, learning rate, completions per group, who
    teaches it, what it begins as and who writes."""
    parts = [_objective(entry).describe()]
    parts += [os.path.basename(entry["model"].rstrip("/"))] if entry["model"] else []
    layers = (entry.get("init") or {}).get("layers")
    parts += [f"{len(layers)} blocks"] if layers else []
    rate = entry.get("learning_rate")
    parts += [f"at {rate:g}"] if rate else []
    parts += [f"{entry['group_size']} completions"] if entry["group_size"] else []
    parts += [f"on texts of {short_name(entry['writer'])}"] if entry.get("writer") else []
    parts += ["rewritten by itself"] if entry.get("rewrite") else []
    parts += ["judged by vote"] if entry.get("labels") == "vote" else []
    start, end = entry.get("problems") or (0, 1)
    parts += [f"problems {start:.0%} to {end:.0%}"] if (start, end) != (0, 1) else []
    parts += [f"taught by {entry['teacher']}"] if entry.get("teacher") else []
    parts += [f"from the end of {short_name(entry['start'])}"] if entry.get("start") else []
    is_on_policy = entry.get("rounds") and entry["kind"] != "opd"
    parts += ["on its own texts"] if is_on_policy else []
    is_plain = len(parts) == 1 and name != entry["kind"]
    return f"{parts[0]} ({name})" if is_plain else ", ".join(parts)


def _objective(entry: dict[str, Any]) -> AnyObjective:
    """Of a student's entry, which holds other fields too; unset ones have their defaults."""
    objective = OBJECTIVES[entry["kind"]]
    names = [field.alias or name for name, field in objective.model_fields.items()]
    return objective.model_validate({name: entry[name] for name in names if name in entry})


def _compared_label(entry: dict[str, Any], recipe: dict[str, Any]) -> str:
    known = {recipe["teacher"]["model"]: "Teacher", recipe["student"]["model"]: "Base student"}
    who = known.get(entry["model"], os.path.basename(entry["model"].rstrip("/")))
    shots = len(entry["prompt"]["shots"])
    return f"{who}, {_shots(shots)}" if shots else f"{who} ({entry['name']})"


def _shots(number: int) -> str:
    return "1 shot" if number == 1 else f"{number} shots"


def short_name(student: str) -> str:
    """A student is named by its kind unless the recipe says otherwise."""
    return OBJECTIVES[student].label if student in OBJECTIVES else student


def split_label(split: str) -> str:
    return {"test": "test", "ood": "out-of-distribution"}.get(split, split)


def problems_in(found: Estimate | Difference, sort: str = "") -> str:
    """How many problems, and how many clusters of them where some are drawn together."""
    text = " ".join(filter(None, [f"{found.num_problems:,}", sort, "problems"]))
    is_clustered = found.num_clusters < found.num_problems
    return f"{text} in {found.num_clusters:,} clusters" if is_clustered else text


def percent(value: float | None) -> str:
    return "\u2013" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A signed difference of shares in percentage points; never a negative zero."""
    return "\u2013" if value is None else f"{round(100 * value, 1) + 0.0:+.1f}"


def outcome(difference: Difference) -> str:
    """better, worse or unclear, by Holm's p: where no model differs from any other, 5 % of reports
    say of one or more that it does."""
    if difference.p_holm is None or difference.p_holm >= LEVEL:
        return "unclear"
    return "better" if difference.value > 0 else "worse"


def counted(number: int) -> str:
    return str(number) if number else "none"


def probability(p: float | None) -> str:
    if p is None:
        return "\u2013"
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def _split_line(results: Results, student: str, split: str, recipe: dict[str, Any]) -> str:
    name, own = short_name(student), results.rows[student, split, "accuracy"]
    interval = (
        "" if own.low is None else f" (95 % interval {percent(own.low)} to {percent(own.high)})"
    )
    said: dict[str, list[str]] = {"better": [], "unclear": [], "worse": []}
    found = rivals(results, student, split)
    for rival in found:
        difference = results.differences[student, rival, split, "accuracy"]
        other = results.rows[rival, split, "accuracy"]
        theirs = f"{percent(other.value)} %"
        if other.num_problems != own.num_problems:
            theirs += f" of {problems_in(other)}"
        said[outcome(difference)].append(
            f"{article(rival, recipe)} ({theirs}, {points(difference.value)} points)"
        )
    words = {
        "better": "It beats",
        "unclear": "No difference can be shown from",
        "worse": "It is worse than",
    }
    sentences = [
        f"On {problems_in(own, split_label(split))} {name} solves {percent(own.value)} %"
        f"{_seeds(results, student, split)}{interval}."
    ]
    if len(found) > MANY:
        counts = {verdict: len(names) for verdict, names in said.items()}
        best = max(found, key=lambda rival: results.rows[rival, split, "accuracy"].value or 0.0)
        share = percent(results.rows[best, split, "accuracy"].value)
        sentences.append(
            f"Of {len(found)} models it beats {counted(counts['better'])}, is worse than "
            f"{counted(counts['worse'])}, and from {counted(counts['unclear'])} no difference can "
            "be shown; the best of them is "
            f"{article(best, recipe)} ({share} %)."
        )
    else:
        sentences += [
            f"{words[verdict]} {_join(names)}." for verdict, names in said.items() if names
        ]
    return " ".join(sentences)


def _seeds(results: Results, student: str, split: str) -> str:
    number = sum(key[:2] == (student, split) for key in results.seeds)
    return f" on average over {number} seeds" if number else ""


def rivals(results: Results, student: str, split: str) -> list[str]:
    """Whom the student is measured against: the better base, the teacher, other students."""

    def share(model: str) -> float:
        return results.rows[model, split, "accuracy"].value or 0.0

    known = [
        model
        for model in results.models
        if (student, model, split, "accuracy") in results.differences
        and results.rows[model, split, "accuracy"].value is not None
    ]
    bases = sorted((model for model in known if model in ("base", "base_plain")), key=share)
    return [*bases[-1:], *(model for model in known if model not in ("base", "base_plain"))]


def _format_sentence(results: Results, student: str) -> list[str]:
    split = results.splits[0]
    own = results.rows.get((student, split, "template_adherence"))
    if own is None or own.value is None:
        return []
    base = results.rows.get(("base", split, "template_adherence"))
    other = "" if base is None else f" (base student: {percent(base.value)} %)"
    share = f"{percent(own.value)} % of the {split_label(split)} problems"
    return [f"It keeps the format asked for in {share}{other}."]


def _above_teacher(results: Results, recipe: dict[str, Any]) -> list[str]:
    """Where SFT on correct completions is above the teacher, methods that imitate the teacher's
    distribution aim lower than what its verified texts give."""
    entries = student_entries(recipe)
    imitates = any(_objective(one).needs.speaker == "teacher" for one in entries.values())
    verified = [
        name
        for name, one in entries.items()
        if one["kind"] == "sft"
        and one.get("on") != "all"
        and not (one.get("writer") or one.get("rounds"))
        and recipe.get("reward", {}).get("reference") != "vote"
    ]
    for split in results.splits if imitates else ():
        teacher = results.rows.get(("teacher", split, "accuracy"))
        for name in verified:
            own = results.rows.get((name, split, "accuracy"))
            if own and teacher and own.low is not None and own.low > (teacher.high or 1.0):
                return [
                    f"{model_label(name, recipe)} ({percent(own.value)} %) is above the teacher "
                    f"itself ({percent(teacher.value)} %) on {split_label(split)} problems: what "
                    "imitates the teacher's distribution aims lower than its verified texts do."
                ]
    return []


def article(rival: str, recipe: dict[str, Any]) -> str:
    few_shot = "few-shot " if recipe["teacher"]["prompt"]["shots"] else ""
    articles = {
        "base": "the base student",
        "base_plain": "the base student with a plain prompt",
        "teacher": f"the {few_shot}teacher",
    }
    if rival in OBJECTIVES:
        return f"the {OBJECTIVES[rival].label} baseline"
    return articles.get(rival, model_label(rival, recipe))


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _resolve(model: str) -> str:
    path = os.path.expanduser(model)
    return os.path.realpath(path) if os.path.exists(path) else path.rstrip("/")
