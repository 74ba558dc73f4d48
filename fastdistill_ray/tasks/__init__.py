"""One file per dataset family. A task loads problems and says which verifier judges them."""

from collections.abc import Callable
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
from fastdistill_ray.tasks.knobs import OodKnobs, TaskKnobs

__all__ = ["HELD_OUT", "TASKS", "OodKnobs", "TaskKnobs", "load_problems", "resolve"]

TASKS: dict[str, Callable[[TaskKnobs], Problems]] = {
    "word_problems": word_problems.load,
    "gsm8k": gsm8k.load_gsm8k,
    "gsm_plus": gsm8k.load_gsm_plus,
    "open_s1": partial(competition.load, competition.OPEN_S1),
    "open_rs": competition.load_open_rs,
    "mmlu_pro": multiple_choice.load_mmlu_pro,
    "math": partial(competition.load, competition.MATH),
    "math500": partial(competition.load, competition.MATH500),
    "aime24": partial(competition.load, competition.AIME24),
    "amc23": partial(competition.load, competition.AMC23),
    "minerva": partial(competition.load, competition.MINERVA),
    "olympiadbench": olympiadbench.load,
    "theoremqa": theoremqa.load,
    "svamp": arithmetic.load_svamp,
    "asdiv": arithmetic.load_asdiv,
    "mawps": arithmetic.load_mawps,
    "cmath": arithmetic.load_cmath,
    "aqua": multiple_choice.load_aqua,
    "lila": lila.load,
    "jsonl": jsonl.load,
}
# Test problems held out by seed where a dataset has no test split: the numbers of arXiv 2507.00054.
HELD_OUT = {"open_s1": 553, "open_rs": 850, "mmlu_pro": 2284}
# Questions behind a task's test problems, which may not be trained on either.
SEED_QUESTIONS = {"gsm_plus": gsm8k.seed_questions}


def load_problems(knobs: TaskKnobs) -> Problems:
    """All four splits (empty where the task has none), checked; equal knobs give equal problems."""
    knobs = resolve(knobs)
    own = knobs.model_copy(update={"num_ood": None}) if knobs.ood else knobs
    problems = _loader(knobs.name)(own)
    if knobs.ood:
        problems = _with_ood(problems, knobs, knobs.ood)
    check_problems(problems)
    return problems


def resolve(knobs: TaskKnobs) -> TaskKnobs:
    """With the number of held-out test problems where the task has one of its own."""
    if knobs.num_test is None and knobs.name in HELD_OUT:
        return knobs.model_copy(update={"num_test": HELD_OUT[knobs.name]})
    return knobs


def _loader(name: str) -> Callable[[TaskKnobs], Problems]:
    if name.startswith(reasoning_gym.PREFIX):
        return reasoning_gym.load
    if name not in TASKS:
        known = ", ".join([*TASKS, f"{reasoning_gym.PREFIX}<dataset>"])
        raise UserError(f"task.name: no task is named {name!r}; known: {known}")
    return TASKS[name]


def _with_ood(problems: Problems, knobs: TaskKnobs, ood: OodKnobs) -> Problems:
    """The other task's test problems, all its problems where it has no test split, become ood.

    What asks the same, or was the seed of one of them, leaves train and validation.
    """
    if problems["ood"]:
        raise UserError(f"task.ood: {knobs.name} has ood problems of its own; leave task.ood out")
    other = resolve(TaskKnobs(name=ood.name, path=ood.path, seed=knobs.seed))
    found = _loader(ood.name)(other)
    chosen = take_ood(found["test"] or found["train"], knobs)
    seeds = SEED_QUESTIONS[ood.name](other) if ood.name in SEED_QUESTIONS else set()
    taken = {asked(problem) for problem in chosen} | {normalise(seed) for seed in seeds}
    return {
        **problems,
        "train": keep(problems["train"], lambda problem: asked(problem) not in taken),
        "validation": keep(problems["validation"], lambda problem: asked(problem) not in taken),
        "ood": chosen,
    }
