"""Four questions that a reader comes with, and what the run answers, before anything else."""

from collections import Counter

from fastdistill_ray.report.conclusion import (
    LEVEL,
    MANY,
    article,
    counted,
    main_student,
    model_label,
    outcome,
    percent,
    points,
    problems_in,
    rivals,
    split_label,
)
from fastdistill_ray.report.overlaps import overlap_blocks
from fastdistill_ray.report.page import Cell, Table, Text
from fastdistill_ray.report.reading import Contents, ensemble_entries, has_chosen_step
from fastdistill_ray.report.tables import (
    cost_cells,
    cost_header,
    extra_costs,
    model_cell,
    of_all,
)

BASES = "base", "base_plain", "teacher"
AGAINST = {
    "better": "better than",
    "worse": "worse than",
    "unclear": "no difference can be shown from",
}
SHOWN = {"better": "shown", "worse": "shown", "unclear": "not shown"}
WORDS = {"better": "yes", "worse": "no, it is worse", "unclear": "not shown"}


def brief_table(run: Contents, status: str) -> Table | None:
    """`status`: a sentence on how the run went."""
    student = main_student(run.results, run.recipe)
    if student is None:
        return None
    rows = [
        ["Is it better?", _better(run, student)],
        ["By how much?", _how_much(run, student)],
        ["At what cost?", _cost(run, student)],
        ["Can I trust it?", _trust(run, student, status)],
    ]
    found: list[list[Cell | str]] = [[question, answer] for question, answer in rows if answer]
    header = [f"Questions about {model_label(student, run.recipe)}", "What this run says"]
    return Table(header, found, num_text_columns=2, is_prose=True)


def _pairs(run: Contents, student: str, *others: str) -> list[tuple[str, str]]:
    """(rival, split): the better base of each split, then the teacher, then `others`."""
    found = [
        (rival, split)
        for split in run.results.splits
        if (student, split, "accuracy") in run.results.rows
        for rival in rivals(run.results, student, split)
        if rival in (*BASES, *others)
    ]
    late = {"teacher": 1} | dict.fromkeys(others, 2)
    return sorted(found, key=lambda pair: late.get(pair[0], 0))


def _better(run: Contents, student: str) -> str:
    sentences = []
    pairs = _pairs(run, student)
    for rival in dict.fromkeys(rival for rival, _ in pairs):
        said: dict[str, list[str]] = {}
        for split in (split for other, split in pairs if other == rival):
            word = WORDS[outcome(run.results.differences[student, rival, split, "accuracy"])]
            said.setdefault(word, []).append(split_label(split))
        where = "; ".join(f"{word}, on {' and '.join(on)} problems" for word, on in said.items())
        sentences.append(f"Better than {article(rival, run.recipe)}: {where}.")
    return " ".join([*sentences, *_than_others(run, student)])


def _than_others(run: Contents, student: str) -> list[str]:
    """A sentence on the other students, on the first split."""
    split = next(iter(run.results.splits), "")
    said: dict[str, list[str]] = {}
    others = [one for one in rivals(run.results, student, split) if one not in BASES]
    if len(others) > MANY:
        found = [
            outcome(run.results.differences[student, one, split, "accuracy"]) for one in others
        ]
        return [
            f"Of {len(others)} others on {split_label(split)} problems it is better than "
            f"{counted(found.count('better'))} and worse than {counted(found.count('worse'))}; "
            f"from {counted(found.count('unclear'))} no difference can be shown (below, each)."
        ]
    for rival in others:
        word = outcome(run.results.differences[student, rival, split, "accuracy"])
        share = percent(run.results.rows[rival, split, "accuracy"].value)
        name = f"{model_label(rival, run.recipe)} ({share} %)"
        said.setdefault(AGAINST[word], []).append(name)
    own = percent(run.results.rows[student, split, "accuracy"].value) if said else ""
    parts = [f"{words} {'; '.join(names)}" for words, names in said.items()]
    return [f"On {split_label(split)} problems ({own} %): {part}." for part in parts]


def rivals_table(run: Contents) -> Table | None:
    """Where there are many: each rival's differences by split, and what its training cost."""
    student = main_student(run.results, run.recipe)
    if student is None:
        return None
    splits = [one for one in run.results.splits if (student, one, "accuracy") in run.results.rows]
    names = dict.fromkeys(one for split in splits for one in rivals(run.results, student, split))
    if len(names) <= MANY:
        return None
    columns = extra_costs(run)

    def accuracy(name: str) -> float:
        found = run.results.rows.get((name, splits[0], "accuracy"))
        return found.value or 0.0 if found else 0.0

    def cells(name: str) -> list[Cell | str]:
        found: list[Cell | str] = [model_cell(run, name)]
        for split in splits:
            gap = run.results.differences.get((student, name, split, "accuracy"))
            told = f"{points(gap.low)} to {points(gap.high)}" if gap else ""
            found += [Cell(points(gap.value if gap else None), told)]
            found += [WORDS[outcome(gap)] if gap else ""]
        cost = run.results.costs.get(name) or {"trained_tokens": 0, "seconds": 0}
        return [*found, *cost_cells(cost, columns)]

    ordered = sorted(names, key=lambda name: (name not in BASES, -accuracy(name)))
    header = [f"{model_label(student, run.recipe)} against"]
    for split in splits:
        header += [f"{split_label(split).capitalize()}: points", "Better?"]
    caption = (
        "Points above each model, with 95 % intervals; tokens and seconds of one training of it"
        f"{of_all(run)}."
    )
    return Table([*header, *cost_header(columns)], [cells(name) for name in ordered], caption)


def _best_other(run: Contents, student: str) -> str | None:
    """The other student that solves most of the first split's problems."""
    split = next(iter(run.results.splits), "")
    others = [one for one in rivals(run.results, student, split) if one not in BASES]
    return max(
        others,
        key=lambda one: run.results.rows[one, split, "accuracy"].value or 0.0,
        default=None,
    )


def _how_much(run: Contents, student: str) -> str:
    """Points with their intervals, by rival."""
    said: dict[str, list[str]] = {}
    best = _best_other(run, student)
    for rival, split in _pairs(run, student, *[best] if best else []):
        gap = run.results.differences[student, rival, split, "accuracy"]
        name = model_label(rival, run.recipe) if rival == best else article(rival, run.recipe)
        said.setdefault(name, []).append(
            f"{points(gap.value)} points on {split_label(split)} problems ({points(gap.low)} to "
            f"{points(gap.high)})"
        )
    sentences = [f"Against {rival}: {' and '.join(found)}." for rival, found in said.items()]
    return " ".join([*sentences, *_strictly(run, student)])


def _strictly(run: Contents, student: str) -> list[str]:
    """What is gained where the answer must also stand in the format asked for."""
    split = next(iter(run.results.splits), "")
    gap = run.results.differences.get((student, "base", split, "strict_accuracy"))
    if gap is None:
        return []
    return [
        f"Where the answer must also stand in the format asked for: {points(gap.value)} points "
        f"against the base student on {split_label(split)} ({points(gap.low)} to "
        f"{points(gap.high)}; {SHOWN[outcome(gap)]})."
    ]


def _cost(run: Contents, student: str) -> str:
    sentences = []
    if cost := run.results.costs.get(student):
        sentences.append(
            f"{_trainings(run, student)}: {cost['trained_tokens']:,} trained tokens in "
            f"{cost['seconds']:,.0f} seconds"
        )
        for name, what in (
            ("scored_tokens", "read by another model beside it"),
            ("written_tokens", "written for it by students"),
        ):
            if cost.get(name):
                sentences[-1] += f", {cost[name]:,.0f} tokens {what}"
    if (best := _best_other(run, student)) and (other := run.results.costs.get(best)):
        sentences.append(
            f"{_trainings(run, best)} of {model_label(best, run.recipe)}: "
            f"{other['trained_tokens']:,} in {other['seconds']:,.0f} seconds"
        )
    if manifests := run.manifests:
        total = {
            name: sum(one[name] for one in manifests)
            for name in ("seconds", "cpu_hours", "gpu_hours", "completion_tokens")
        }
        sentences.append(
            f"All {len(manifests)} stages, with every model compared: "
            f"{total['seconds'] / 60:,.1f} minutes, {total['cpu_hours']:,.2f} CPU hours, "
            f"{total['gpu_hours']:,.2f} GPU hours"
        )
        facts = [one.get("facts", {}) for one in manifests]
        paid = sum(one.get(name, 0.0) for one in facts for name in ("teacher_paid", "judge_paid"))
        sentences += [f"Paid to endpoints: {paid:,.4f}"] if paid else []
    return " ".join(f"{sentence}." for sentence in sentences)


def _trainings(run: Contents, model: str) -> str:
    """What its costs in results.json are of."""
    return "All trainings" if model in ensemble_entries(run.recipe) else "One training"


def _trust(run: Contents, student: str, status: str) -> str:
    sentences = []
    asked = []
    for split in run.results.splits:
        found = [one for key, one in run.results.rows.items() if key[1:] == (split, "accuracy")]
        if found:
            most = max(found, key=lambda one: one.num_problems)
            asked.append(f"{problems_in(most)} ({split_label(split)})")
    if asked:
        sentences.append(f"Every model was asked the same {' and '.join(asked)}.")
    sentences.append("No tested question is a training question.")
    sentences += _kept(run)
    sentences += [
        f"{model_label(model, run.recipe)} has answered {found.num_problems:,} of the "
        f"{split_label(split)} problems alone; differences from it are over these."
        for (model, split, metric), found in run.results.rows.items()
        if metric == "accuracy" and 0 < found.num_problems < run.results.most_problems(split)
    ]
    number = max(Counter(key[3] for key in run.results.differences).values(), default=0)
    if number:
        sentences.append(
            f"A difference counts as shown where p is below {LEVEL:g} after Holm's adjustment for "
            f"{number} comparisons."
        )
    seeds = len({key[2] for key in run.results.seeds if key[0] == student})
    sentences.append(
        f"{seeds} trainings with different seeds are averaged."
        if seeds > 1
        else "One training seed: how another would come out is not known."
    )
    sentences += _choice(run, student)
    sentences += [block.text for block in overlap_blocks(run) if isinstance(block, Text)]
    return " ".join([*sentences, status])


def _kept(run: Contents) -> list[str]:
    """Of how many training problems the teachers' groups were used, where not of all."""
    if run.groups is None or not (dropped := run.groups.dropped.total() - run.groups.dropped[""]):
        return []
    why, number = max(
        ((why, number) for why, number in run.groups.dropped.items() if why), key=lambda one: one[1]
    )
    which = "all" if number == dropped else f"{number:,}"
    kept, total = run.groups.dropped[""], run.groups.dropped.total()
    return [
        f"Of {total:,} training problems the groups of {kept:,} could be trained on; "
        f"{dropped:,} were left out ({which} of them: {why.replace('_', ' ')})."
    ]


def _choice(run: Contents, student: str) -> list[str]:
    """By what the student was chosen among trials, if it was."""
    own = [trial for trial in run.trials if trial["student"] == student]
    if not own:
        return []
    is_validated = any(trial.get("validation_accuracy") is not None for trial in own)
    if has_chosen_step(run.recipe):
        rate = "was chosen on validation problems" if is_validated else "is the recipe's"
        return [f"The learning rate {rate}; held-out groups chose the step, tested problems never."]
    if is_validated:
        return [
            "Learning rate and epochs were chosen on validation problems, never on tested ones."
        ]
    return ["Learning rate and epochs are the recipe's: none were chosen among several."]
