"""What every task shares: its knobs, dividing problems into splits, checking them."""

import dataclasses
import logging
import random
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Problem, Split
from fastdistill_ray.tasks.knobs import TaskKnobs

logger = logging.getLogger(__name__)
Problems = dict[Split, list[Problem]]
Item = TypeVar("Item")


def require_text(row: dict[str, Any], names: Iterable[str], where: str) -> None:
    """Raises unless every named field is a text with something in it."""
    if missing := [name for name in names if row.get(name) is None]:
        raise UserError(f"{where}: missing {', '.join(missing)}")
    for name in names:
        if not isinstance(row[name], str):
            raise UserError(f"{where}: {name} must be text, is {row[name]!r}")
        if not row[name].strip():
            raise UserError(f"{where}: {name} is empty")
        require_whole(row[name], name, where)


def require_whole(text: str, name: str, where: str) -> None:
    """Raises where a text was cut inside of a character, as JSON of UTF-16 may be."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: {name} holds half of a character ({text[error.start]!r}); mend the text"
        ) from error


def divide(found: Problems, knobs: TaskKnobs) -> Problems:
    """Source splits -> the splits asked for: seeded subsets, each in the source's order.

    Without test (validation) problems in the source, they are held out of train. A train question
    of any other split and a validation question of test or ood leave, counted in the log. Ids are
    those of the source and do not depend on the division.
    """
    rng = random.Random(f"divide/{knobs.seed}")
    train, validation = found["train"], found["validation"]
    ood, _ = take(found["ood"], knobs.num_ood, rng, "task.num_ood")
    if found["test"]:
        test, _ = take(found["test"], knobs.num_test, rng, "task.num_test")
    else:
        test, train = hold_out(train, knobs.num_test or 0, rng, "task.num_test")
    train = _without(train, test + ood)
    if validation:
        validation = _without(validation, test + ood)
        validation, _ = take(validation, knobs.num_validation, rng, "task.num_validation")
    else:
        validation, train = hold_out(train, knobs.num_validation, rng, "task.num_validation")
    train = _without(train, validation)
    train, _ = take(train, knobs.num_train, rng, "task.num_train")
    chosen: Problems = {"train": train, "validation": validation, "test": test, "ood": ood}
    return {
        split: [dataclasses.replace(problem, split=split) for problem in problems]
        for split, problems in chosen.items()
    }


def take_ood(problems: list[Problem], knobs: TaskKnobs) -> list[Problem]:
    """`num_ood` of another task's problems by seed, as ood problems of this one."""
    rng = random.Random(f"ood/{knobs.seed}")
    chosen, _ = take(problems, knobs.num_ood, rng, "task.num_ood")
    return [dataclasses.replace(problem, split="ood") for problem in chosen]


def take(
    items: list[Item], count: int | None, rng: random.Random, name: str
) -> tuple[list[Item], list[Item]]:
    """(`count` random items, the others), both in their order; None takes all."""
    if count is None:
        return items, []
    if count > len(items):
        raise UserError(f"{name}: {count} problems asked for, {len(items)} are there")
    chosen = set(rng.sample(range(len(items)), count))
    return (
        [item for i, item in enumerate(items) if i in chosen],
        [item for i, item in enumerate(items) if i not in chosen],
    )


def hold_out(
    problems: list[Problem], count: int, rng: random.Random, name: str
) -> tuple[list[Problem], list[Problem]]:
    """As `take`, but for variants of one question: a cluster of them is held out as a whole, as
    long as there is room for it."""
    clusters = dict.fromkeys(problem.cluster for problem in problems if problem.cluster)
    if not clusters:
        return take(problems, count, rng, name)
    if count > len(problems):
        raise UserError(f"{name}: {count} problems asked for, {len(problems)} are there")
    units: dict[str, list[Problem]] = {}
    for problem in problems:
        units.setdefault(problem.cluster or f"alone/{problem.problem_id}", []).append(problem)
    order = list(units)
    rng.shuffle(order)
    chosen: set[str] = set()
    for unit in order:
        if len(chosen) + len(units[unit]) <= count:
            chosen |= {problem.problem_id for problem in units[unit]}
    return (
        [problem for problem in problems if problem.problem_id in chosen],
        [problem for problem in problems if problem.problem_id not in chosen],
    )


def normalise(question: str) -> str:
    """Questions that differ in case or white space only are the same question."""
    return " ".join(question.lower().split())


def asked(problem: Problem) -> str:
    """What makes two problems the same: "Which is true?" differs by its options."""
    return normalise(" ".join([problem.question, *problem.options]))


def check_problems(problems: Problems, *, is_unlabelled: bool = False) -> None:
    """Ids unique, nothing empty, no trained or chosen-on question asked again in evaluation."""
    seen: dict[str, Split] = {}
    for split, members in problems.items():
        for problem in members:
            if problem.problem_id in seen:
                raise UserError(
                    f"task {problem.task}: problem_id {problem.problem_id} appears twice "
                    f"({seen[problem.problem_id]} and {split})"
                )
            seen[problem.problem_id] = split
            is_judged = problem.reference.strip() or (is_unlabelled and split == "train")
            if not problem.question.strip() or not is_judged:
                raise UserError(
                    f"{problem.problem_id} ({split}): question or reference is empty"
                    + ("; only training problems need none" if is_unlabelled else "")
                )
    questions = {
        split: {asked(problem): problem.problem_id for problem in members}
        for split, members in problems.items()
    }
    for first, second in (
        ("train", "validation"),
        ("train", "test"),
        ("train", "ood"),
        ("validation", "test"),
        ("validation", "ood"),
    ):
        for question in questions[first].keys() & questions[second].keys():
            raise UserError(
                f"{questions[first][question]} ({first}) and {questions[second][question]} "
                f"({second}) ask the same question"
            )


def _without(problems: list[Problem], others: list[Problem]) -> list[Problem]:
    taken = {asked(problem) for problem in others}
    clusters = {problem.cluster for problem in others if problem.cluster}
    return keep(
        problems,
        lambda problem: asked(problem) not in taken and problem.cluster not in clusters,
    )


def keep(
    problems: list[Problem],
    is_kept: Callable[[Problem], bool],
    why: str = "evaluation splits share their questions or derive from them",
) -> list[Problem]:
    """Those that may be trained on; the others are counted in the log."""
    kept = [problem for problem in problems if is_kept(problem)]
    if len(kept) < len(problems):
        logger.warning(
            "%d %s problems left out: %s",
            len(problems) - len(kept),
            problems[0].split,
            why,
        )
    return kept
