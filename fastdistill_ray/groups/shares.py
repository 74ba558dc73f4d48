"""How many groups of each update the student itself writes, where that depends on how it fares.

DistiLLM (arXiv 2402.03898, section 3.2): the share phi is 0 at first. After each validation whose
loss is `tolerance` or more above the level of the last rise (at first, that before training), phi
rises by `rise`. Of a step's groups, each by a draw of its own, with t of T steps done:

  phi (1 - t / T)  is a new text of the student,
  phi t / T        one that it wrote for an earlier step, of the store,
  1 - phi          a teacher's.

Departures: the paper draws for a whole batch, here for each group; it writes anew until 1,000 texts
are there to choose from, here until there is one.
"""

from typing import Literal, NamedTuple

import numpy as np

from fastdistill_ray.storage.place import Place

RECORD = ".whole"  # of a round's student: its file says that it is there, and the share
Source = Literal["new", "earlier", "teacher"]


class Rise(NamedTuple):
    """Of the share, between validations."""

    by: float
    tolerance: float

    def after(self, share: float, level: float, loss: float) -> tuple[float, float]:
        """Share and level after a validation."""
        if loss < level + self.tolerance:
            return share, level
        return min(1.0, round(share + self.by, 6)), loss


class Shares(NamedTuple):
    """What each step of a training is made of; the same on every rank and after every restart."""

    folder: str  # of the records of its rounds
    steps_per_round: int
    num_steps: int
    groups_per_step: int
    seed: int
    rise: Rise

    def of(self, number: int) -> float | None:
        """Of a round; None before its student is there."""
        if number == 0:
            return 0.0
        record = record_of(Place(self.folder), number)
        return float(record.read_text()) if record.is_file() else None

    def sources(self, step: int, share: float, *, has_earlier: bool) -> list[Source]:
        """Of each group of a step; `has_earlier`: whether the student wrote for one before."""
        new = share * (1 - step / self.num_steps)
        draws = np.random.default_rng([self.seed, step]).random(self.groups_per_step)
        found: list[Source] = []
        for draw in draws:
            if draw >= share:
                found.append("teacher")
            else:
                found.append("new" if draw < new or not has_earlier else "earlier")
        return found

    def num_new(self, number: int, before: int) -> int:
        """New groups of a round, whose student is there, after `before` of the rounds before it."""
        total, share = before, self.of(number) or 0.0
        for step in self.steps_of(number):
            total += self.sources(step, share, has_earlier=total > 0).count("new")
        return total - before

    def steps_of(self, number: int) -> range:
        first = number * self.steps_per_round
        return range(first, min(first + self.steps_per_round, self.num_steps))

    def earlier(self, step: int, num_texts: int, wanted: int) -> list[int]:
        """Which of the texts that the student wrote for earlier steps are trained on again; none
        twice in a step while there are enough."""
        random = np.random.default_rng([self.seed, step, 1])
        return random.choice(num_texts, wanted, replace=wanted > num_texts).tolist()


def record_of(folder: Place, number: int) -> Place:
    return folder / f"round_{number}{RECORD}"
