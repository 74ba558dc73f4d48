"""One file per dataset family. A task loads problems and says which verifier judges them."""

from functools import partial

from fastdistill_ray.errors import UserError
from fastdistill_ray.tasks import (
    arithmetic,
    competition,
    gsm8k,
    jsonl,
    lila,
    multiple_choice,
    olympiadbench,
    reasoning_gym,
    theoremqa,
    word_problems,
)
from fastdistill_ray.tasks.base import Problems, asked, check_problems, keep, normalise, take_ood
from fastdistill_ray.tasks.decontamination import without_overlaps
from fastdistill_ray.tasks.knobs import OodKnobs, TaskKnobs
from fastdistill_ray.tasks.source import HUB, Hub, Task

__all__ = [
    "TASKS",
    "OodKnobs",
    "TaskKnobs",
    "check_name",
    "decontaminated",
    "hub_of",
    "load_problems",
    "resolve",
    "words_in_a_row",
]


def _competition(source: competition.Competition) -> Task:
    return Task(partial(competition.load, source), source.hub)


# Test problems held out by seed (`Hub.held_out`) are as many as in arXiv 2507.00054.
TASKS: dict[str, Task] = {
    "word_problems": Task(word_problems.load, is_made=True),
    "gsm8k": Task(gsm8k.load_gsm8k, gsm8k.GSM8K),
    "gsm_plus": Task(gsm8k.load_gsm_plus, gsm8k.GSM_PLUS, gsm8k.seed_questions),
    "open_s1": _competition(competition.OPEN_S1),
    "open_rs": Task(competition.load_open_rs, competition.OPEN_RS.hub),
    "mmlu_pro": Task(multiple_choice.load_mmlu_pro, multiple_choice.MMLU_PRO),
    "math": _competition(competition.MATH),
    "math500": _competition(competition.MATH500),
    "aime24": _competition(competition.AIME24),
    "amc23": _competition(competition.AMC23),
    "minerva": _competition(competition.MINERVA),
    "olympiadbench": Task(olympiadbench.load, olympiadbench.HUB),
    "theoremqa": Task(theoremqa.load, theoremqa.HUB),
    "svamp": Task(arithmetic.load_svamp, arithmetic.SVAMP, is_made=True),
    "asdiv": Task(arithmetic.load_asdiv, arithmetic.ASDIV, is_made=True),
    "mawps": Task(arithmetic.load_mawps, arithmetic.MAWPS, is_made=True),
    "cmath": Task(arithmetic.load_cmath, arithmetic.CMATH),
    "aqua": Task(multiple_choice.load_aqua, multiple_choice.AQUA),
    "lila": Task(lila.load, lila.HUB),
    "jsonl": Task(jsonl.load, load_whole=partial(jsonl.load, holds_out=False)),
    HUB: Task(jsonl.load_hub, load_whole=partial(jsonl.load_hub, holds_out=False)),
}


def load_problems(knobs: TaskKnobs) -> Problems:
    """All four splits (empty where the task has none), checked; equal knobs give equal problems."""
    check_source(knobs)
    knobs = resolve(knobs)
    own = knobs.model_copy(update={"num_ood": None}) if knobs.ood else knobs
    problems = _task(knobs.name).load(own)
    if knobs.ood:
        problems = _with_ood(problems, knobs, knobs.ood)
    check_problems(problems, is_unlabelled=knobs.unlabelled)
    return problems


def decontaminated(problems: Problems, knobs: TaskKnobs) -> Problems:
    """Without what was to be learnt or chosen by and overlaps what is tested; UserError where that
    is all there was."""
    if not (size := words_in_a_row(knobs)):
        return problems
    kept = without_overlaps(problems, size)
    for split in ("train", "validation"):
        if problems[split] and not kept[split]:
            raise UserError(
                f"task.decontaminate: all {len(problems[split])} {split} problems share {size} "
                "words in a row with test or ood problems; raise it, or set 0 where they are made "
                "from templates"
            )
    return kept


def words_in_a_row(knobs: TaskKnobs) -> int:
    """That may not be shared with a test or ood problem; 0: any may."""
    return 0 if _task(knobs.name).is_made else knobs.decontaminate


def resolve(knobs: TaskKnobs) -> TaskKnobs:
    """With the number of held-out test problems where the task has one of its own."""
    hub = hub_of(knobs.name)
    if knobs.num_test is None and hub and hub.held_out:
        return knobs.model_copy(update={"num_test": hub.held_out})
    return knobs


def hub_of(name: str) -> Hub | None:
    """The dataset on the hub that a task reads where it is given no path."""
    return TASKS[name].hub if name in TASKS else None


def check_name(field: str, name: str) -> None:
    if name not in TASKS and not name.startswith(reasoning_gym.PREFIX):
        known = ", ".join([*TASKS, f"{reasoning_gym.PREFIX}<dataset>"])
        raise UserError(f"{field}: no task is named {name!r}; known: {known}")


def check_source(knobs: TaskKnobs) -> None:
    """UserError where something is said of a dataset on the hub that is not read."""
    is_read = not knobs.path and hub_of(knobs.name) is not None
    for field in ("config", "splits", "revision"):
        if not getattr(knobs, field) or knobs.name == HUB or (field == "revision" and is_read):
            continue
        raise UserError(
            f"task.{field}: {knobs.path or f'task {knobs.name}'} is not read by it; leave it out, "
            f"or set task.name: {HUB}"
        )


def _task(name: str, field: str = "task.name") -> Task:
    check_name(field, name)
    return TASKS.get(name) or Task(reasoning_gym.load, is_made=True)


def _with_ood(problems: Problems, knobs: TaskKnobs, ood: OodKnobs) -> Problems:
    """The other task's test problems, all its problems where it has no test split, become ood.

    What asks the same, or was the seed of one of them, leaves train and validation.
    """
    if problems["ood"]:
        raise UserError(f"task.ood: {knobs.name} has ood problems of its own; leave task.ood out")
    own = {"kind": ood.kind or knobs.kind, "columns": ood.columns}
    other = resolve(TaskKnobs(name=ood.name, path=ood.path, seed=knobs.seed, **own))
    task = _task(ood.name, "task.ood.name")
    try:
        found = (task.load_whole or task.load)(other)
    except UserError as error:
        raise UserError(f"task.ood: {error}") from error
    chosen = take_ood(found["test"] or found["train"], knobs)
    seeds = task.seed_questions(other) if task.seed_questions else set()
    taken = {asked(problem) for problem in chosen} | {normalise(seed) for seed in seeds}
    return {
        **problems,
        "train": keep(problems["train"], lambda problem: asked(problem) not in taken),
        "validation": keep(problems["validation"], lambda problem: asked(problem) not in taken),
        "ood": chosen,
    }
