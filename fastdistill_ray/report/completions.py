"""A teacher's completions as the report shows them, each with its numbers."""

from typing import Any

from fastdistill_ray.objectives import AdvDistill
from fastdistill_ray.report.page import Shown
from fastdistill_ray.report.tables import UNDEFINED
from fastdistill_ray.rewards.assess import relative_weights


def weights_of(completions: list[dict[str, Any]], objective: dict[str, Any]) -> list[float | None]:
    """That the recipe's own objective gives each, where it is AdvDistill."""
    if objective["kind"] != AdvDistill.model_fields["kind"].default:
        return [None] * len(completions)
    return relative_weights([one["advantage"] for one in completions], objective["tau"])


def shown_completions(completions: list[dict[str, Any]], objective: dict[str, Any]) -> list[Shown]:
    """All of a group; the first of each verdict is shown open."""
    firsts = {c["verdict"]: place for place, c in reversed(list(enumerate(completions)))}
    opened = set(firsts.values())
    pairs = zip(completions, weights_of(completions, objective), strict=True)
    return [
        _shown(place, {**one, "weight": weight}, place in opened)
        for place, (one, weight) in enumerate(pairs)
    ]


def _shown(place: int, completion: dict[str, Any], is_open: bool) -> Shown:
    facts = [
        f"{name} {_number(completion[name], spec)}"
        for name, spec in (("reward", ".3f"), ("advantage", "+.3f"), ("weight", ".3f"))
    ]
    facts += [f"{score['name']} {_number(score['value'], '.3f')}" for score in completion["scores"]]
    facts.append(f"{completion['num_tokens']:,} tokens")
    if completion["finish_reason"] != "stop":
        facts.append(f"finish: {completion['finish_reason']}")
    name, verdict = f"Completion {place + 1}", completion["verdict"]
    return Shown(name, verdict, facts, completion["text"], is_open=is_open)


def _number(value: float | None, spec: str) -> str:
    """Never a negative zero."""
    return UNDEFINED if value is None else format(round(value, 3) + 0.0, spec)
