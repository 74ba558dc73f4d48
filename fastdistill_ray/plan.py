"""A recipe in words: what would run, where, and about how much; and every field there is."""

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fastdistill_ray.config import PoolKnobs, Recipe
from fastdistill_ray.tasks import TaskKnobs, load_problems

# Of datasets on the hub, so that a plan needs no download.
HUB_ROWS = {"gsm8k": {"train": 7473, "test": 1319}}


def count_problems(knobs: TaskKnobs) -> dict[str, int]:
    """Problems per split; of a hub dataset as its card says, before duplicates leave."""
    if knobs.path or knobs.name not in HUB_ROWS:
        return {split: len(problems) for split, problems in load_problems(knobs).items()}
    rows = HUB_ROWS[knobs.name]
    held_out = knobs.num_validation
    return {
        "train": min(rows["train"] - held_out, knobs.num_train or rows["train"]),
        "validation": held_out,
        "test": min(rows["test"], rows["test"] if knobs.num_test is None else knobs.num_test),
        "ood": 0,
    }


def describe(recipe: Recipe) -> str:
    """The plan that --dry-run prints. Tokens are upper bounds: every completion at its limit."""
    counts = count_problems(recipe.task)
    train, held_out = counts["train"], counts["validation"]
    tests = counts["test"] + counts["ood"]
    rates = recipe.compare.learning_rates or [recipe.optimizer.learning_rate]
    kinds = [recipe.objective.kind, *(objective.kind for objective in recipe.compare.students)]
    steps = recipe.training.epochs * -(-train // recipe.training.groups_per_step)
    steps = min(steps, recipe.training.max_steps or steps)
    trials = len(rates) * len(recipe.compare.epochs or [recipe.training.epochs]) * len(kinds)
    models = len(recipe.compare.baselines) + len(kinds)
    written = train * recipe.sampling.n * recipe.sampling.max_new_tokens
    answered = tests * models * recipe.evaluation.n * recipe.evaluation.max_new_tokens
    lines = [
        f"recipe     {recipe.name}: {recipe.teacher.model} -> {recipe.student.model}",
        f"problems   {train} train, {held_out} validation, {counts['test']} test, "
        f"{counts['ood']} ood of task {recipe.task.name}",
        f"generate   {train} groups of {recipe.sampling.n} completions, at most {written:,} tokens"
        f"  [{_pool(recipe.pools.teacher)}; judges {_pool(recipe.pools.judges)}]",
    ]
    for kind in kinds:
        for rate in rates:
            lines.append(
                f"train      {kind} at learning rate {rate:g}: at most {steps} steps of "
                f"{recipe.training.groups_per_step} groups, {recipe.training.epochs} epochs"
                f"  [{_pool(recipe.pools.student)}]"
            )
    if held_out and (recipe.compare.learning_rates or recipe.compare.epochs):
        lines.append(
            f"validate   {trials} trials on {held_out} problems  [{_pool(recipe.pools.evaluation)}]"
        )
    lines += [
        f"evaluate   {models} models on {tests} problems, at most {answered:,} tokens"
        f"  [{_pool(recipe.pools.evaluation)}]",
        "report     report.html, report.md, results.json",
        f"overlap    {'while the teacher writes' if recipe.training.overlap else 'no, in turn'}",
    ]
    return "\n".join(lines)


def _pool(pool: PoolKnobs) -> str:
    devices = f"{pool.gpus} GPU, " if pool.gpus else ""
    return f"{pool.workers} x {devices}{pool.cpus:g} CPU"


def describe_fields() -> str:
    """`section.field = default  description`, one line each."""
    return "\n".join(_field_lines(Recipe, ""))


def _field_lines(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        if sections := _models_in(field.annotation):
            for section in sections:
                yield from _field_lines(section, f"{key}.")
            continue
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else json.dumps(default, default=str)
        yield f"{key} = {shown}  {field.description or ''}".rstrip()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [
        part
        for part in get_args(annotation)
        if isinstance(part, type) and issubclass(part, BaseModel)
    ]
