"""Which questions share many words in a row with those a run is tested on.

As GPT-3's authors and others do (arXiv 2005.14165, appendix C: 13 words). Time is linear in the
words of both: 0.3 s for the 7,473 training and 1,319 test questions of GSM8K, of which 4 leave.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from fastdistill_ray.records import Problem
from fastdistill_ray.tasks.base import Problems, keep

WORD = re.compile(r"[^\W_]+")


def without_overlaps(problems: Problems, size: int) -> Problems:
    """Training and validation problems that share no `size` words in a row with a test or ood
    problem, and these."""
    tested = runs_of_words([*problems["test"], *problems["ood"]], size)

    def is_new(problem: Problem) -> bool:
        return tested.keys().isdisjoint(_runs(problem.question, problem.options, size))

    why = (
        f"they share {size} words in a row with a test or ood problem (task.decontaminate; set it "
        "to 0 where problems are made from templates and differ by numbers alone)"
    )
    return {
        **problems,
        "train": keep(problems["train"], is_new, why),
        "validation": keep(problems["validation"], is_new, why),
    }


def runs_of_words(problems: Iterable[Problem], size: int) -> dict[int, set[str]]:
    """Hash of every run of `size` words of the questions -> ids of the problems that have it. In
    another process hashes are others."""
    owners: dict[int, set[str]] = {}
    for problem in problems:
        for run in _runs(problem.question, problem.options, size):
            owners.setdefault(run, set()).add(problem.problem_id)
    return owners


def overlaps(text: str, tested: Mapping[int, set[str]], size: int) -> set[str]:
    """Ids of the problems of `runs_of_words` that the text overlaps."""
    return set().union(*(tested.get(run, ()) for run in _runs(text, (), size)))


def is_short(question: str, size: int) -> bool:
    """It has no run of so many words, so that only its equal overlaps it."""
    return len(WORD.findall(question)) < size


def _runs(question: str, options: Sequence[str], size: int) -> list[int]:
    """Hashes of its runs of words, in lower case and without punctuation. A shorter question is one
    run, options and all, so that it equals only another short one: "Which is true?" is no run."""
    words = WORD.findall(question.lower())
    if len(words) < size:
        return [hash(tuple(WORD.findall(" ".join([question, *options]).lower())))]
    return [hash(run) for run in zip(*(words[i:] for i in range(size)), strict=False)]
