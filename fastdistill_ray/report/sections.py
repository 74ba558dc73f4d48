"""Run folder -> report.html, one self-contained page, and report.md with the same tables.

Shows what results.json says; of its own it only counts the group store. No torch, Ray or vLLM.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastdistill_ray.records import VERDICTS
from fastdistill_ray.report import plots
from fastdistill_ray.report.brief import brief_table, rivals_table
from fastdistill_ray.report.browser import browser_blocks
from fastdistill_ray.report.completions import shown_completions
from fastdistill_ray.report.conclusion import (
    blocks_kept,
    conclusion,
    main_student,
    model_colour,
    model_label,
    percent,
    split_label,
)
from fastdistill_ray.report.costs import (
    cost_blocks,
    training_label,
    training_tables,
)
from fastdistill_ray.report.examples import (
    NUM_GROUPS_SEARCHED,
    example_answers,
    example_groups,
)
from fastdistill_ray.report.gaps import gap_blocks
from fastdistill_ray.report.group_numbers import GroupNumbers
from fastdistill_ray.report.model_card import write_cards
from fastdistill_ray.report.new_problems import new_problem_blocks
from fastdistill_ray.report.overlaps import overlap_blocks, overlap_warning
from fastdistill_ray.report.page import (
    Block,
    Cell,
    Example,
    Figure,
    Page,
    Section,
    Shown,
    Table,
    Text,
    figures_of,
    to_html,
    to_markdown,
)
from fastdistill_ray.report.provenance import provenance_blocks
from fastdistill_ray.report.reading import Contents, read_run
from fastdistill_ray.report.rewrites import rewrite_blocks
from fastdistill_ray.report.stages import find_troubles, stage_blocks, status_sentence
from fastdistill_ray.report.tables import (
    adherence_blocks,
    decimal,
    degeneracy_blocks,
    difference_blocks,
    hundredth,
    length_table,
    result_blocks,
    trial_blocks,
)
from fastdistill_ray.report.timeline import timeline_blocks
from fastdistill_ray.report.votes import vote_blocks
from fastdistill_ray.run_files import FIGURES, REPORT, REPORT_MARKDOWN, write_text
from fastdistill_ray.storage.place import Place

TEACHER_GROUPS = "Teacher, training problems"
# With at least one correct completion of 8 by Qwen2.5-7B-Instruct: arXiv 2507.00054.
PAPER_KEPT = {"gsm8k": 7279, "open_s1": 2474, "mmlu_pro": 6973}


def write_report(view: str | Place) -> str:
    """Writes report.html and report.md into a run folder, or into that of a recipe in it, and model
    cards beside its students; the path of the former."""
    run = read_run(view)
    troubles = find_troubles(run)
    status = status_sentence(run, troubles)
    brief = brief_table(run, status)
    said = [*conclusion(run.results, run.recipe), overlap_warning(run)]
    if brief is None and run.stages:
        said.append(status)
    page = Page(
        title=f"{run.recipe['name']}: distillation report",
        subtitle=_subtitle(run),
        conclusion=[line for line in said if line],
        sections=[
            Section("Results", result_blocks(run)),
            Section("Differences", [*difference_blocks(run), *gap_blocks(run)]),
            Section("Trials", trial_blocks(run)),
            Section("Rewards and groups", [*_group_blocks(run), *overlap_blocks(run)]),
            Section("Verdicts", _verdict_blocks(run)),
            Section("Training", [*_training_blocks(run), *training_tables(run)]),
            Section("Length", _length_blocks(run)),
            Section("Degeneracy", degeneracy_blocks(run)),
            Section("Template adherence", adherence_blocks(run)),
            Section("Examples", _example_blocks(run)),
            Section("Groups", browser_blocks(run)),
            Section("Stages", stage_blocks(run, troubles)),
            Section("Timeline", timeline_blocks(run)),
            Section("Cost", cost_blocks(run)),
            Section("Provenance", provenance_blocks(run)),
        ],
        brief=brief,
        rivals=rivals_table(run),
    )
    write_text(run.path / REPORT, to_html(page))
    write_text(run.path / REPORT_MARKDOWN, to_markdown(page, FIGURES))
    _write_figures(run.path / FIGURES, figures_of(page))
    write_cards(run)
    return str(run.path / REPORT)


def _write_figures(folder: Place, figures: dict[str, str]) -> None:
    for file in folder.list():
        if file.name not in figures:
            file.unlink()
    for name, svg in figures.items():
        write_text(folder / name, svg)


def _subtitle(run: Contents) -> str:
    recipe = run.recipe
    teacher, student = (Path(recipe[part]["model"]).name for part in ("teacher", "student"))
    if number := blocks_kept(recipe):
        student += f", {number} of its blocks"
    dates = [manifest["finished"][:10] for manifest in run.manifests[-1:]]
    facts = [
        f"teacher {teacher}",
        f"student {student}",
        f"task {recipe['task']['name']}",
        f"{recipe['sampling']['n']} completions per problem",
    ]
    return " \u00b7 ".join(dates + facts)


def _group_blocks(run: Contents) -> list[Block]:
    groups = run.groups
    if groups is None:
        return []
    size = int(groups.sizes.max())
    return [
        Figure(
            plots.correct_per_group_svg(groups.num_correct, size),
            f"Correct completions per group over {len(groups.sizes):,} groups. Groups in the "
            "middle teach most: they show right and wrong answers to the same problem.",
        ),
        _dropped_table(groups, PAPER_KEPT.get(run.recipe["task"]["name"])),
        *vote_blocks(run),
        *rewrite_blocks(run),
        *new_problem_blocks(run),
        *_reward_figure(groups),
        *_score_blocks(run, groups),
    ]


def _dropped_table(groups: GroupNumbers, paper_kept: int | None) -> Table:
    total = len(groups.sizes)
    reasons = sorted(groups.dropped.items(), key=lambda item: (item[0] != "", -item[1]))
    rows = [
        [f"Dropped: {_words(reason)}" if reason else "Kept", f"{count:,}", percent(count / total)]
        for reason, count in reasons
    ]
    caption = "Groups the students were trained on, and those left out with the reason."
    if paper_kept:
        rows.append(["Kept in the paper (arXiv 2507.00054)", f"{paper_kept:,}", ""])
    return Table(["Groups", "Number", "Share %"], rows, caption)


def _reward_figure(groups: GroupNumbers) -> list[Block]:
    judged = np.isfinite(groups.rewards)
    trained = groups.is_kept & np.isfinite(groups.advantages)
    if not judged.any() or not trained.any():
        return []
    correct = groups.is_correct
    svg = plots.reward_svg(
        (groups.rewards[judged & correct], groups.rewards[judged & ~correct]),
        (groups.advantages[trained & correct], groups.advantages[trained & ~correct]),
    )
    caption = (
        f"Rewards of all {int(judged.sum()):,} completions and, on the right, advantages of the "
        f"{int(trained.sum()):,} in kept groups. An advantage compares a completion with its own "
        "group: some of it lie below 0 also where all are right."
    )
    return [Figure(svg, caption)]


def _score_blocks(run: Contents, groups: GroupNumbers) -> list[Block]:
    shown = {}
    for name, values in groups.scores.items():
        known = np.isfinite(values)
        pair = (values[known & groups.is_correct], values[known & ~groups.is_correct])
        if known.any():
            shown[name] = pair
    if not shown:
        return []
    caption = (
        "Each score of every completion as it was given, before the recipe's weights make a "
        "reward of them."
    )
    weights = run.recipe["reward"]["weights"]
    return [Figure(plots.scores_svg(shown), caption), _score_table(shown, groups, weights)]


def _score_table(
    shown: dict[str, tuple[np.ndarray, np.ndarray]],
    groups: GroupNumbers,
    weights: dict[str, float],
) -> Table:
    starts = np.concatenate([[0], np.cumsum(groups.sizes)[:-1]])
    rows: list[list[Cell | str]] = []
    for name, (correct, wrong) in shown.items():
        values, weight = groups.scores[name], weights.get(name, 0.0)
        apart = np.fmax.reduceat(values, starts) - np.fmin.reduceat(values, starts)
        means = [
            float(part.mean()) if len(part) else None
            for part in (np.concatenate([correct, wrong]), correct, wrong)
        ]
        spread = abs(weight) * float(np.nanmean(apart))
        rows.append([name, f"{weight:g}", *map(hundredth, means), hundredth(spread)])
    caption = (
        "Means of each score over the teacher's completions. Sets apart: how far, on average, it "
        "sets the best and the worst completion of one group apart in the reward, by its weight: "
        "what it teaches beside the others."
    )
    header = ["Score", "Weight", "Mean", "of correct", "of others", "Sets apart"]
    return Table(header, rows, caption, title="Scores of the teacher's completions")


def _verdict_blocks(run: Contents) -> list[Block]:
    shares: dict[str, dict[str, float]] = {}
    if run.groups is not None:
        shares[TEACHER_GROUPS] = _shares(run.groups.verdicts)
    for model, split, answers in _answers_by_split(run):
        name = f"{model_label(model, run.recipe)}, {split_label(split)}"
        shares[name] = _shares(Counter(answers["verdict"].to_pylist()))
    if not shares:
        return []
    seen = [name for name in VERDICTS if any(row[name] for row in shares.values())]
    rows = [[who, *(f"{row[name]:.1f}" for name in seen)] for who, row in shares.items()]
    drawn = {name: run.recipe[name]["temperature"] for name in ("sampling", "evaluation")}
    caption = (
        "Strict verdicts of all completions, in percent of each writer's. The teacher's training "
        f"completions are drawn at temperature {drawn['sampling']:g}, answers to test problems at "
        f"{drawn['evaluation']:g}: one model has other shares in the two."
    )
    table = Table(["Writer", *(f"{name.capitalize()} %" for name in seen)], rows)
    return [Figure(plots.verdict_svg(shares), caption), table]


def _training_blocks(run: Contents) -> list[Block]:
    curves = []
    for training in run.trainings:
        is_chosen = _is_chosen(run, training.student, training.learning_rate)
        label = training_label(run, training)
        colour = model_colour(training.student, run.recipe)
        curves.append(plots.Curve(training.student, colour, label, is_chosen, training.steps))
    return [
        Figure(plots.training_svg(curves, panels, name), caption)
        for name, (panels, caption) in plots.TRAINING_FIGURES.items()
        if plots.shown_panels(curves, panels)
    ]


def _length_blocks(run: Contents) -> list[Block]:
    first = [] if run.groups is None else [_teacher_row(run, run.groups)]
    writers = _length_writers(run)
    caption = (
        "Tokens of correct and wrong answers: median, quartiles, whiskers at the 5th and 95th "
        "percentile. Judged strictly: wrong is every answer whose verdict is not correct."
    )
    boxes: list[Block] = [Figure(plots.length_svg(writers), caption)] if writers else []
    return boxes + length_table(run, first)


def _teacher_row(run: Contents, groups: GroupNumbers) -> list[Cell | str]:
    tokens, correct = groups.num_tokens, groups.num_tokens[groups.is_correct]
    wrong = groups.num_tokens[~groups.is_correct]
    means = [float(part.mean()) if len(part) else None for part in (tokens, correct, wrong)]
    ratio = means[2] / means[1] if means[1] and means[2] is not None else None
    who = [Cell("Teacher", mark=model_colour("teacher", run.recipe)), "Training"]
    return [*who, *(decimal(mean) for mean in means), hundredth(ratio)]


def _length_writers(run: Contents) -> list[plots.Lengths]:
    writers = []
    if (groups := run.groups) is not None:
        lengths = (groups.num_tokens[groups.is_correct], groups.num_tokens[~groups.is_correct])
        writers.append(plots.Lengths(TEACHER_GROUPS, *lengths))
    for model, split, answers in _answers_by_split(run):
        is_correct = np.array(answers["verdict"].to_pylist()) == "correct"
        tokens = answers["num_tokens"].to_numpy()
        name = f"{model_label(model, run.recipe)}, {split_label(split)}"
        writers.append(plots.Lengths(name, tokens[is_correct], tokens[~is_correct]))
    return writers


def _answers_by_split(run: Contents) -> list[tuple[str, str, pa.Table]]:
    return [
        (model, split, table.filter(pc.field("split") == split))
        for model, table in run.answers.items()
        for split in table["split"].unique().to_pylist()
    ]


def _example_blocks(run: Contents) -> list[Block]:
    blocks: list[Block] = [Text(_how_picked(run))]
    student = main_student(run.results, run.recipe)
    if student is not None:
        label = model_label(student, run.recipe)
        headings = {"gained": f"Base wrong, {label} right", "lost": f"{label} wrong"}
        for found in example_answers(run, student):
            answers = [_answer(run, model, row) for model, row in found.answers.items()]
            heading = headings[found.heading]
            blocks.append(Example(heading, found.question, found.reference, answers))
    for heading, group in example_groups(run):
        reason = f": {_words(group['dropped'])}" if group["dropped"] else ""
        title = f"{heading}{reason} \u2013 the teacher's completions of a training problem"
        answers = shown_completions(group["completions"], run.recipe["objective"])
        blocks.append(Example(title, group["question"], group["reference"], answers))
    return blocks if len(blocks) > 1 else []


def _how_picked(run: Contents) -> str:
    student = main_student(run.results, run.recipe)
    answers = (
        f"Of the first split, in the order of the problems' names: the first two that the base "
        f"student has wrong and {model_label(student, run.recipe)} right, and the first that the "
        "latter has wrong; chosen to show a gain and a fault, so they say nothing of how frequent "
        "either is. "
        if student
        else ""
    )
    return (
        f"{answers}Of the training groups: the first of each sort among the first "
        f"{NUM_GROUPS_SEARCHED:,} of the store. Nobody chose them by reading."
    )


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def _shares(verdicts: Counter[str]) -> dict[str, float]:
    total = max(verdicts.total(), 1)
    return {name: 100 * verdicts[name] / total for name in VERDICTS}


def _is_chosen(run: Contents, student: str, rate: float) -> bool:
    """Whether this training made the student evaluated; true where there was no choice."""
    rates = [t["learning_rate"] for t in run.trials if t["student"] == student and t["chosen"]]
    return not rates or math.isclose(rates[0], rate)


def _answer(run: Contents, model: str, row: dict[str, Any]) -> Shown:
    facts = [f"{row['num_tokens']:,} tokens"]
    if row["lenient_verdict"] != row["verdict"]:
        facts.append(f"leniently {row['lenient_verdict']}")
    if row["finish_reason"] != "stop":
        facts.append(f"finish: {row['finish_reason']}")
    return Shown(
        model_label(model, run.recipe),
        row["verdict"],
        facts,
        row["text"],
        mark=model_colour(model, run.recipe),
        is_open=model in ("base", main_student(run.results, run.recipe)),
    )
