"""What the student's own texts of a step are like, and when they are too many that lead nowhere."""

import logging
import time
from typing import Any

from fastdistill_ray.errors import UserError
from fastdistill_ray.rounds.policies import Policies
from fastdistill_ray.training.step import sum_over_ranks

logger = logging.getLogger(__name__)
OWN_RIGHT = "rounds/correct"
CUT = ("length", "repetition")  # finish reasons of texts that did not come to their end


class OwnTexts:
    """Of a training in rounds: what is noted of each step, and a line once its first texts are
    there, where that may be said; of any other nothing."""

    def __init__(self, rounds: Policies | None, *, may_advise: bool) -> None:
        self.rounds, self.may_advise = rounds, may_advise

    def metrics(self, row: dict[str, Any], ended: float) -> dict[str, float]:
        """`ended`: when the step before did. UserError as of `written_metrics`."""
        if self.rounds is None:
            return {}
        waiting = time.perf_counter() - ended
        found = written_metrics(row, self.rounds.max_cut)
        if self.may_advise and OWN_RIGHT in found:
            self.may_advise = False
            if line := advise(found, self.rounds.taught):
                logger.warning(line)
        return {"time/waiting": waiting, **found}


def advise(metrics: dict[str, float], taught: float | None) -> str:
    """A line where the student, before any update, is right as often as its teachers are."""
    own = metrics[OWN_RIGHT]
    if taught is None or own < taught:
        return ""
    return (
        f"the student's first texts are right in {own:.0%}, its teachers' groups in {taught:.0%}: "
        "who learns to write as a teacher does that is no better comes down to it; take a better "
        "teacher, or sft and advdistill, which learn from what is right"
    )


def written_metrics(row: dict[str, Any], max_cut: float) -> dict[str, float]:
    """Of the student's texts, of all ranks: their share of the step's groups, how many are right
    and are cut, their length, the rounds that who wrote them was trained; of none only the first.
    UserError where more than a share of `max_cut` are cut."""
    groups = [group for group in row["groups"] if group["round"] is not None]
    texts = [one for group in groups for one in group["completions"]]
    counts = [
        len(texts),
        sum(one["verdict"] == "correct" for one in texts),
        sum(one["finish_reason"] in CUT for one in texts),
        sum(one["num_tokens"] for one in texts),
        len(groups),
        sum(group["round"] for group in groups),
    ]
    total, right, cut, tokens, num_groups, rounds = sum_over_ranks(counts)
    if total and cut > max_cut * total:
        raise UserError(
            f"rounds.max_cut: {cut:.0f} of the student's {total:.0f} texts of step "
            f"{row['step'] + 1} are cut or loop; raise sampling.max_new_tokens, lower "
            "optimizer.learning_rate, or take more texts of teachers (rounds.mix)"
        )
    found = {"rounds/own": num_groups / row["num_groups"]}
    if total:
        found |= {OWN_RIGHT: right / total, "rounds/cut": cut / total}
        found |= {"rounds/length": tokens / total, "rounds/version": rounds / num_groups}
    return found
