"""What the verifier of a kind is asked and what it says."""

from typing import NamedTuple

from fastdistill_ray.records import Kind, Verdict


class Question(NamedTuple):
    kind: Kind
    reference: str
    answer: str
    options: tuple[str, ...]
    tolerance: float | None
    scorer: str = ""


class Decision(NamedTuple):
    verdict: Verdict
    reason: str


CORRECT = Decision("correct", "equal")
