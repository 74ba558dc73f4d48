"""Which completions of a group are trained on, where an objective trains some of them all alike."""

from collections.abc import Sequence
from typing import Literal

from fastdistill_ray.objectives.contract import Scored

On = Literal["best", "correct", "all"]


def chosen(on: On, completions: Sequence[Scored]) -> list[int]:
    """Places of the best correct completion, of all correct ones, or of all."""
    if on == "all":
        return list(range(len(completions)))
    correct = [index for index, one in enumerate(completions) if one.is_correct]
    return correct if on == "correct" or not correct else [best_of(correct, completions)]


def best_of(places: Sequence[int], completions: Sequence[Scored]) -> int:
    """The one with the most reward; ties: the shortest."""
    return min(places, key=lambda i: (-completions[i].reward, completions[i].num_tokens, i))
