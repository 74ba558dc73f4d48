"""A student's own answers after it has read those of a writer that it is to be stronger than.

Alice (arXiv 2504.07316): a weak writer answers a problem several times; where its answers differ,
how much they do is put into words, and the strong student answers anew after reading its own
answer, the writer's, and those words. Where they do not, the writer's answer stays. Texts alone;
nothing here knows which answer is right. No torch, no Ray.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic import Field, field_validator

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.records import Problem
from fastdistill_ray.rewards.assess import ToScore
from fastdistill_ray.rewards.voting import ANY, clusters_of
from fastdistill_ray.verifiers import Judge

PARTS = ("question", "own", "other", "uncertainty")
REWRITE = """{question}

My own answer:
{own}

Another answer:
{other}

Its writer says: {uncertainty}

Solve the problem anew and give one whole answer. Do not mention any other answer."""
LEAKS = ("another answer", "other answer", "my own answer", "its writer", "uncertain")
ORIGINAL, REWRITTEN = "original", "rewritten"
LEAKED, NO_ANSWER, NOT_ANSWERED = "mentions_other_answers", "no_answer", "not_answered"


class RewriteKnobs(Knobs):
    text: str = Field(
        default=REWRITE,
        description="What the student is asked, with {question}, {own} (its answer before), "
        "{other} (the writer's) and {uncertainty} (how often the writer gave which answer).",
    )
    leaks: list[str] = Field(
        default=list(LEAKS),
        description="An answer that has one of these words, whatever their case, is left out: it "
        "speaks of what it has read.",
    )

    @field_validator("text")
    @classmethod
    def _has_all_parts(cls, text: str) -> str:
        if missing := [part for part in PARTS if "{" + part + "}" not in text]:
            raise ValueError(f"expected {{{missing[0]}}} in it")
        return text


class Final(NamedTuple):
    """What a writer's answers to a problem come to."""

    place: int  # of the completion that stands for them: the first with the answer of most
    counts: list[tuple[str, int]]  # answers that were given more than once, most often first

    @property
    def is_sure(self) -> bool:
        return len(self.counts) == 1


def final_of(row: Mapping[str, Any], judge: Judge) -> Final | None:
    """Of a group; None where no answer was given twice, or none can be compared. Answers given once
    are dropped."""
    if row["kind"] not in ANY:
        return None
    group = ToScore.of(row, row["completions"])
    found = [one for one in clusters_of(group, judge) if len(one.places) > 1]
    if not found:
        return None
    found.sort(key=lambda one: -len(one.places))
    return Final(found[0].places[0], [(one.answer, len(one.places)) for one in found])


def uncertainty_of(final: Final, num_answers: int) -> str:
    """In words, of the writer itself."""
    said = ", ".join(f"{answer} {count} times" for answer, count in final.counts)
    rest = num_answers - sum(count for _, count in final.counts)
    others = f", and {rest} other answers once or none" if rest else ""
    best = final.counts[0][0]
    return f"I answered {num_answers} times: {said}{others}. I am not sure of {best}."


def asked_again(
    problem: Problem, own: str, row: Mapping[str, Any], final: Final, knobs: RewriteKnobs
) -> Problem:
    """The problem as the student is asked it anew."""
    completions = row["completions"]
    parts = {
        "question": problem.question,
        "own": own.strip(),
        "other": completions[final.place]["text"].strip(),
        "uncertainty": uncertainty_of(final, len(completions)),
    }
    text = knobs.text
    for name in PARTS:  # not str.format, which braces of a text would confuse
        text = text.replace("{" + name + "}", f"\0{name}\0")
    for name, part in parts.items():
        text = text.replace(f"\0{name}\0", part)
    return replace(problem, question=text)


def is_leak(text: str, knobs: RewriteKnobs) -> bool:
    said = text.lower()
    return any(word.lower() in said for word in knobs.leaks)


def chosen_texts(
    written: Iterable[Mapping[str, Any]],
    finals: Mapping[str, Final | None],
    again: Mapping[str, Mapping[str, Any]],
    knobs: RewriteKnobs,
) -> tuple[list[dict[str, Any]], Counter[str], Counter[str]]:
    """(rows of one completion each, how many are original and rewritten, why others are left out).

    `written`: the writer's groups; `finals`: by problem, what each comes to; `again`: by problem,
    the groups of what the student wrote anew.
    """
    rows: list[dict[str, Any]] = []
    sources: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for row in written:
        final = finals[row["problem_id"]]
        if final is None:
            left[NO_ANSWER] += 1
        elif final.is_sure:
            sources[ORIGINAL] += 1
            rows.append({**row, "vote": None, "completions": [row["completions"][final.place]]})
        elif (other := again.get(row["problem_id"])) is None or not other["completions"]:
            left[NOT_ANSWERED] += 1
        elif is_leak(other["completions"][0]["text"], knobs):
            left[LEAKED] += 1
        else:
            sources[REWRITTEN] += 1
            rows.append({**other, "question": row["question"]})
    return rows, sources, left
