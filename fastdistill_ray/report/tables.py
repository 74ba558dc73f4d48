"""Tables and figures of what results.json says of every model; computes no metric of its own."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fastdistill_ray.evaluation.statistics import Estimate
from fastdistill_ray.report import plots
from fastdistill_ray.report.conclusion import (
    LEVEL,
    model_colour,
    model_label,
    outcome,
    percent,
    points,
    probability,
    problems_in,
    split_label,
)
from fastdistill_ray.report.page import Block, Cell, Figure, Table, Text
from fastdistill_ray.report.reading import Contents, ensemble_entries, has_chosen_step

UNDEFINED = "\u2013"
ABSENT = Estimate(None, None, None, 0, 0)


class Column(NamedTuple):
    """A metric of results.json in a table: its title and how a value is written."""

    metric: str
    title: str
    show: Callable[[float | None], str]


def result_blocks(run: Contents) -> list[Block]:
    if not run.results.rows:
        return []
    tables = [_result_table(run, split) for split in run.results.splits]
    return [
        *tables,
        Text(_explain_accuracy(run)),
        *_seed_tables(run),
        *_pass_at_k(run),
        *_accuracy_figure(run),
        *(table for split in run.results.splits for table in _part_table(run, split)),
    ]


def _result_table(run: Contents, split: str) -> Table:
    """One row per model; cost stands beside it because equal accuracy may not be equally dear."""
    columns = extra_costs(run)
    rows = [result_cells(run, model, split, columns) for model in run.results.models]
    measures = {model: measure(run, model, split, "accuracy") for model in run.results.models}
    largest = max(measures.values(), key=lambda measure: measure.num_problems)
    caption = " ".join(
        f"{model_label(model, run.recipe)} has answered {found.num_problems:,} of them alone."
        for model, found in measures.items()
        if 0 < found.num_problems < largest.num_problems
    )
    if "scored_tokens" in columns:
        caption += " " * bool(caption) + (
            "Scored tokens: what another model read of the texts, beside the student in training "
            "or once before it: the teacher or, of DPO, the student as it began."
        )
    return Table(
        result_header(columns),
        rows,
        caption,
        title=f"{split_label(split).capitalize()}: {problems_in(largest)}",
    )


def result_header(columns: Sequence[str]) -> list[str]:
    """Of `result_cells`; `columns`: of EXTRA_COSTS."""
    header = ["Model", "Accuracy %", "Strict accuracy %", "Format %", "Mean tokens", "At limit %"]
    return [*header, *cost_header(columns)]


def result_cells(run: Contents, model: str, split: str, columns: Sequence[str]) -> list[Cell | str]:
    """The model, what it solves, how it answers, and what its training cost."""
    cost = run.results.costs.get(model)
    return [
        model_cell(run, model),
        interval_cell(measure(run, model, split, "accuracy")),
        interval_cell(measure(run, model, split, "strict_accuracy")),
        percent(measure(run, model, split, "template_adherence").value),
        decimal(measure(run, model, split, "mean_tokens").value),
        percent(measure(run, model, split, "truncation_rate").value),
        *cost_cells(cost or {"trained_tokens": 0, "seconds": 0}, columns),
    ]


def _part_table(run: Contents, split: str) -> list[Table]:
    """Accuracy by sort of problem, a column per model."""
    found = {key: m for key, m in run.results.parts.items() if key[1] == split}
    names = list(dict.fromkeys(name for _, _, name in found))
    models = [model for model in run.results.models if any(key[0] == model for key in found)]
    rows: list[list[Cell | str]] = []
    for name in names:
        measures = [found.get((model, split, name), ABSENT) for model in models]
        num_problems = max(measure.num_problems for measure in measures)
        rows.append(
            [name.replace("_", " "), f"{num_problems:,}", *(interval_cell(m) for m in measures)]
        )
    header = ["Problems", "Number", *(f"{model_label(model, run.recipe)} %" for model in models)]
    title = f"{split_label(split).capitalize()}: accuracy by sort of problem"
    return [Table(header, rows, title=title)] if rows else []


def _seed_tables(run: Contents) -> list[Block]:
    """Accuracy of each student of several seeds, a column per split."""
    found = run.results.seeds
    rows = [
        [
            model_cell(run, model),
            str(seed),
            *(interval_cell(found.get((model, one, seed), ABSENT)) for one in run.results.splits),
        ]
        for model, seed in dict.fromkeys((model, seed) for model, _, seed in found)
    ]
    splits = [f"{split_label(split).capitalize()} %" for split in run.results.splits]
    number = max(Counter(key[:2] for key in found).values(), default=0)
    caption = (
        f"A student's row above is the mean of its {number} trainings, tokens and seconds those of "
        "one. Its interval draws seeds as well as problems; it is conservative in what belongs to "
        f"neither alone, but {number} seeds say little of how others would come out. The intervals "
        "here are over problems alone. Lengths, verdicts and examples of answers are those of the "
        "first seed."
    )
    title = "Each seed's accuracy"
    return [Table(["Model", "Seed", *splits], rows, caption, title=title)] if rows else []


def _explain_accuracy(run: Contents) -> str:
    text = (
        "Small figures are 95 % intervals. Accuracy judges leniently: a correct last number counts "
        "wherever it stands, so that learning the format is not sold as learning to reason. "
        "Strict accuracy is the contract: the answer must stand in the format asked for. Format is "
        "the share of answers in that format, whether correct or not. At limit: answers cut at "
        "the evaluation's token limit; the verdict truncated counts those ended in a loop too."
    )
    if any(one.num_clusters < one.num_problems for one in run.results.rows.values()):
        text += " A cluster is the variants of one question: an interval draws all of them or none."
    cut = _over_splits(run, "base", "truncation_rate")
    if cut is None:
        return text
    loops = _over_splits(run, "base", "loop_end_rate")
    judged = "under" if cut < 0.05 else "which is not under"
    return (
        f"{text} Of the base student's answers, over all splits, {percent(cut)} % were cut at the "
        f"limit, {judged} 5 %, and {percent(loops)} % were ended in a loop."
    )


def _over_splits(run: Contents, model: str, metric: str) -> float | None:
    """The share among the problems of all splits; None where no split has it."""
    found = [measure(run, model, split, metric) for split in run.results.splits]
    num_problems = sum(one.num_problems for one in found if one.value is not None)
    hits = sum(one.value * one.num_problems for one in found if one.value is not None)
    return hits / num_problems if num_problems else None


def _pass_at_k(run: Contents) -> list[Block]:
    names = dict.fromkeys(name for _, _, name in run.results.rows if name.startswith("pass@"))
    caption = "pass@k: share of problems that at least one of k sampled answers solves."
    return metric_table(run, [Column(name, f"{name} %", percent) for name in names], caption)


def _accuracy_figure(run: Contents) -> list[Block]:
    panels = {}
    for split in run.results.splits:
        estimates = []
        for model in run.results.models:
            value, low, high, *_ = measure(run, model, split, "accuracy")
            if value is not None:
                low, high = (value if bound is None else bound for bound in (low, high))
                numbers = (100 * value, 100 * low, 100 * high)
                colour, label = (one(model, run.recipe) for one in (model_colour, model_label))
                estimates.append(plots.Bar(colour, label, *numbers))
        if estimates:
            panels[split_label(split).capitalize()] = estimates
    if not panels:
        return []
    caption = "Accuracy of each model on the same problems; whiskers are 95 % intervals."
    return [Figure(plots.accuracy_svg(panels), caption)]


def difference_blocks(run: Contents) -> list[Block]:
    words = {"better": "yes, better", "worse": "yes, worse", "unclear": "no"}
    metrics = {"accuracy": "Accuracy", "strict_accuracy": "Strict accuracy"}
    found = run.results.differences.items()
    in_order = sorted(found, key=lambda item: (item[0][3], item[0][2] != "test"))
    rows: list[list[Cell | str]] = [
        [
            f"{model_label(model, run.recipe)} minus {model_label(minus, run.recipe)}",
            split_label(split).capitalize(),
            metrics.get(metric, metric),
            points(difference.value),
            f"{points(difference.low)} to {points(difference.high)}",
            probability(difference.p),
            probability(difference.p_holm),
            words[outcome(difference)],
            _tokens_of_both(run, model, minus, "trained_tokens"),
            _tokens_of_both(run, model, minus, "scored_tokens", "written_tokens"),
        ]
        for (model, minus, split, metric), difference in in_order
    ]
    header = [
        "Comparison",
        "Split",
        "Metric",
        "Points",
        "95 % interval, unadjusted",
        "p",
        "p (Holm)",
        "Shown",
        "Trained tokens",
        "Scored, written",
    ]
    number = max(Counter(key[3] for key in run.results.differences).values(), default=0)
    caption = (
        "Differences in percentage points, paired by problem: both models answered the same ones. "
        "Intervals and p are of each comparison by itself, from the same draws. p (Holm) is "
        f"adjusted for all {number} comparisons by one metric, of all splits. A difference is "
        f"shown where it is below {LEVEL:g}; elsewhere the run does not show which model is better."
        f" Tokens are of one training of the first model / of the second{of_all(run)}: trained "
        "on; and read by another model beside them or written by a student for them. Groups of "
        "teachers are the same for all."
    )
    return [Table(header, rows, caption, num_text_columns=3)] if rows else []


def _tokens_of_both(run: Contents, model: str, minus: str, *names: str) -> str:
    """Of each; what is not trained has none."""
    costs = [run.results.costs.get(one) for one in (model, minus)]
    return " / ".join(
        UNDEFINED if cost is None else f"{sum(cost.get(name, 0) for name in names):,}"
        for cost in costs
    )


def trial_blocks(run: Contents) -> list[Block]:
    has_seeds, columns = _has_seeds(run), extra_costs(run)
    rows = [
        [
            model_cell(run, trial["student"]),
            f"{trial['learning_rate']:g}",
            *([str(trial["seed"])] if has_seeds else []),
            str(trial["epoch"]),
            percent(trial["validation_accuracy"]),
            *([percent(trial["mean_accuracy"])] if has_seeds else []),
            f"{trial['num_problems']:,}",
            *cost_cells(trial, columns),
            "chosen" if trial["chosen"] else "",
        ]
        for trial in run.trials
    ]
    seed, mean = (["Seed"], ["Mean over seeds %"]) if has_seeds else ([], [])
    header = ["Student", "Learning rate", *seed, "Epochs", "Validation accuracy %", *mean]
    spent = "count training up to that epoch"
    if has_chosen_step(run.recipe):
        spent = "are of the whole training; held-out groups chose the step, in the epoch told"
    caption = f"{_selection(run)}Tokens and seconds {spent}."
    table = Table([*header, "Problems", *cost_header(columns), ""], rows, caption)
    return [table] if rows else []


def _has_seeds(run: Contents) -> bool:
    return any(trial.get("seed") is not None for trial in run.trials)


def _selection(run: Contents) -> str:
    """How trials were chosen, and what that does to their numbers; empty where none was."""
    told = ("student", "learning_rate", *(() if has_chosen_step(run.recipe) else ("epoch",)))
    tried = Counter(student for student, *_ in {tuple(t[one] for one in told) for t in run.trials})
    most = max(tried.values(), default=0)
    if most < 2 or run.trials[0]["validation_accuracy"] is None:
        return ""
    seeds = ", averaged over seeds" if _has_seeds(run) else ""
    what = "Learning rates and epochs" if "epoch" in told else "Learning rates"
    return (
        f"{what} of all students were chosen by strict accuracy{seeds} on validation problems. "
        f"The best of {most} trials on {run.trials[0]['num_problems']:,} problems looks better "
        "there than it is, because luck was chosen too; no test problem took part in the choice. "
    )


def length_table(run: Contents, first_rows: list[list[Cell | str]]) -> list[Block]:
    """Mean lengths and their ratio, below rows of the same shape given by the caller."""
    columns = [
        Column("mean_tokens", "Mean tokens", decimal),
        Column("mean_tokens_correct", "Correct", decimal),
        Column("mean_tokens_wrong", "Wrong", decimal),
        Column("verbosity_ratio", "Verbosity ratio", hundredth),
    ]
    caption = (
        "Verbosity ratio: mean tokens of wrong answers over mean tokens of correct ones, "
        "judged strictly; "
        f"{UNDEFINED} where one of them does not occur."
    )
    return metric_table(run, columns, caption, first_rows)


def degeneracy_blocks(run: Contents) -> list[Block]:
    columns = [
        Column("rep_4", "Repeated 4-grams %", percent),
        Column("rep_4_correct", "in correct", percent),
        Column("rep_4_wrong", "in wrong", percent),
        Column("degenerate_rate", "Looping answers %", percent),
        Column("degenerate_rate_correct", "of correct", percent),
        Column("degenerate_rate_wrong", "of wrong", percent),
        Column("mean_loops", "Loops per answer", hundredth),
        Column("loop_end_rate", "Ended in one %", percent),
    ]
    caption = (
        "Repeated 4-grams: 1 minus unique over all 4-grams of an answer, averaged. A looping "
        "answer says a phrase of four or more words three times in a row or more; one that the "
        "engine found to say the same tokens for ever was ended there."
    )
    return metric_table(run, columns, caption)


def adherence_blocks(run: Contents) -> list[Block]:
    columns = [
        Column("template_think", "<think> %", percent),
        Column("template_answer", "<answer> %", percent),
        Column("template_box", "\\boxed %", percent),
        Column("template_adherence", "Whole format %", percent),
    ]
    return metric_table(run, columns, "Share of answers that hold each part asked for.")


def metric_table(
    run: Contents,
    columns: list[Column],
    caption: str,
    first_rows: list[list[Cell | str]] | None = None,
) -> list[Block]:
    """Models by metrics, a row per split; columns without any value are left out."""
    known = {metric for (_, _, metric), m in run.results.rows.items() if m.value is not None}
    columns = [column for column in columns if column.metric in known]
    rows = list(first_rows or [])
    for split in run.results.splits:
        for model in run.results.models:
            values = [measure(run, model, split, column.metric).value for column in columns]
            if any(value is not None for value in values):
                cells = [column.show(v) for column, v in zip(columns, values, strict=True)]
                rows.append([model_cell(run, model), split_label(split).capitalize(), *cells])
    header = ["Model", "Problems", *(column.title for column in columns)]
    return [Table(header, rows, caption, num_text_columns=2)] if columns else []


def measure(run: Contents, model: str, split: str, metric: str) -> Estimate:
    return run.results.rows.get((model, split, metric), ABSENT)


def model_cell(run: Contents, model: str) -> Cell:
    return Cell(model_label(model, run.recipe), mark=model_colour(model, run.recipe))


def decimal(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:,.1f}"


def hundredth(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.2f}"


def interval_cell(found: Estimate) -> Cell:
    low, high = found.low, found.high
    interval = "" if low is None or high is None else f"{percent(low)} to {percent(high)}"
    return Cell(percent(found.value), interval)


# Costs that only some methods have -> title of the column and how a number is shown.
EXTRA_COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "written_tokens": ("Written by students", lambda tokens: f"{tokens:,}"),
    "scored_tokens": ("Scored tokens", lambda tokens: f"{tokens:,}"),
    "signal_bytes": ("Stored MiB", lambda size: f"{size / 2**20:,.2f}"),
}


def of_all(run: Contents) -> str:
    """Behind `one training`, where a model has several."""
    return ", of an ensemble of all that vote" if ensemble_entries(run.recipe) else ""


def extra_costs(run: Contents) -> list[str]:
    """Those that a student of this run has."""
    costs = run.results.costs.values()
    return [name for name in EXTRA_COSTS if any(cost.get(name) for cost in costs)]


def cost_header(columns: Sequence[str]) -> list[str]:
    return ["Trained tokens", *(EXTRA_COSTS[name][0] for name in columns), "Training s"]


def cost_cells(cost: dict[str, float], columns: Sequence[str]) -> list[Cell | str]:
    extra = [EXTRA_COSTS[name][1](cost.get(name, 0)) for name in columns]
    return [f"{cost['trained_tokens']:,}", *extra, f"{cost['seconds']:,.0f}"]
