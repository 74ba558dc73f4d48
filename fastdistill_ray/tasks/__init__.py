"""One file per dataset family. A task loads problems and says which verifier judges them."""

from collections.abc import Callable

from fastdistill_ray.tasks import gsm8k, jsonl, word_problems
from fastdistill_ray.tasks.base import Problems, TaskKnobs, check_problems

__all__ = ["TASKS", "TaskKnobs", "load_problems"]

TASKS: dict[str, Callable[[TaskKnobs], Problems]] = {
    "word_problems": word_problems.load,
    "gsm8k": gsm8k.load,
    "jsonl": jsonl.load,
}


def load_problems(knobs: TaskKnobs) -> Problems:
    """All four splits (empty where the task has none), checked; equal knobs give equal problems."""
    if knobs.name not in TASKS:
        raise ValueError(f"task.name: no task is named {knobs.name!r}; known: {', '.join(TASKS)}")
    problems = TASKS[knobs.name](knobs)
    check_problems(problems)
    return problems
