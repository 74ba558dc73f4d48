"""Training problems that a model makes of those there are, and which of them are kept.

As in Self-Instruct (arXiv 2212.10560, section 2.2) what is made is filtered by rules: a text that
is no single question, one that is there already, and one that a tested problem overlaps leave. New
problems have no answer: completions are judged by a vote, and where that is not clear the problem
is not trained on. Departure: what is there already is told by equality, not by ROUGE-L, which is
high between any two problems of one template. No torch, no Ray.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from pydantic import Field

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.prompts import PromptKnobs, parts_of
from fastdistill_ray.records import Problem
from fastdistill_ray.tasks.base import normalise
from fastdistill_ray.tasks.decontamination import overlaps, runs_of_words

SYSTEM = (
    "You write problems. The user gives one; answer with one new problem of the same kind and "
    "difficulty, with other names, things and numbers, and nothing else: no solution, no answer."
)
LABEL = re.compile(r"^\s*(?:new\s+)?(?:problem|question|task)\s*:?\s*\n?", re.IGNORECASE)
ANSWERED = re.compile(r"\\boxed|</?answer>|</?think>|^\s*(?:answer|solution)\s*:", re.I | re.M)
FEWEST_WORDS = 4
KINDS = ("number", "math", "text", "list")  # others have options, or a data set that judges
CUT, NO_QUESTION, REPEATED, TESTED = "cut", "no_single_question", "repeated", "overlaps_test"


class NewProblemsKnobs(Knobs):
    n: int = Field(default=1, ge=1, description="Texts that `teacher` writes of each problem.")
    temperature: float = Field(default=1.0, gt=0, description="Temperature at which it does.")
    max_new_tokens: int = Field(default=256, gt=0, description="Most tokens of a new problem.")
    seed: int = Field(default=0, description="With the problem's id it seeds each request.")
    prompt: PromptKnobs = Field(
        default=PromptKnobs(system=SYSTEM),
        description="What it is told; worked examples are pairs of a problem and a new one.",
    )


def question_of(text: str) -> str:
    """The problem that a model wrote; "" where its text is not that alone."""
    said = LABEL.sub("", parts_of(text)[1].strip()).strip()
    paragraphs = [one for one in re.split(r"\n\s*\n", said) if one.strip()]
    if len(paragraphs) != 1 or ANSWERED.search(said) or len(said.split()) < FEWEST_WORDS:
        return ""
    return said


def kept(
    written: Iterable[tuple[Problem, list[tuple[str, str]]]],
    there: Iterable[Problem],
    tested: list[Problem],
    size: int,
) -> tuple[list[Problem], Counter[str]]:
    """(new problems without answers, why other texts leave).

    `written`: problems, each with the texts made of it and why each ended; `there`: problems that
    none may repeat; `tested`: those that none may share `size` words in a row with, 0: any number.
    """
    known = {normalise(one.question) for one in [*there, *tested]}
    runs = runs_of_words(tested, size) if size else {}
    found: list[Problem] = []
    left: Counter[str] = Counter()
    for problem, texts in written:
        for place, (text, finish_reason) in enumerate(texts):
            question = question_of(text)
            if finish_reason != "stop":
                left[CUT] += 1
            elif not question:
                left[NO_QUESTION] += 1
            elif normalise(question) in known:
                left[REPEATED] += 1
            elif size and overlaps(question, runs, size):
                left[TESTED] += 1
            else:
                known.add(normalise(question))
                name = f"{problem.problem_id}+{place + 1}"
                made = replace(problem, problem_id=name, question=question, reference="")
                found.append(replace(made, tolerance=problem.tolerance, split="train"))
    return found, left
