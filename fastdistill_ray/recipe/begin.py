"""A recipe to begin with: the fields that most people set, each with what it means."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fastdistill_ray.recipe.fields import Field, fields_of
from fastdistill_ray.recipe.loading import parse_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.tasks import check_name, hub_of

SHOWN = (
    *("task.name", "task.path", "task.num_train", "task.num_test", "task.num_ood"),
    "teacher.model",
    *("teacher.engine.kind", "teacher.engine.url", "teacher.engine.api_key_env"),
    *("teacher.engine.price_prompt", "teacher.engine.price_completion"),
    *("teacher.engine.max_model_len", "student.model", "sampling.n", "sampling.temperature"),
    *("sampling.max_new_tokens", "objective.kind", "objective.tau", "objective.lambda"),
    *("optimizer.learning_rate", "training.epochs", "training.groups_per_step"),
    *("training.max_seq_len", "training.micro_batch_tokens", "pools.teacher.workers"),
    *("pools.teacher.gpus", "pools.student.workers", "pools.student.gpus"),
    *("pools.evaluation.gpus", "evaluation.max_new_tokens", "compare.students"),
    "compare.baselines",
)

LIMIT = "Most tokens of a completion. Yours to set: a few times what a good answer takes."
MEANINGS = {
    "teacher.engine.kind": "vllm: an engine of ours; endpoint: a server of others.",
    "teacher.engine.price_prompt": "Of a million tokens, for plan and report; 0: not known.",
    "sampling.max_new_tokens": LIMIT,
    "evaluation.max_new_tokens": LIMIT,
    "compare.students": "Others that are trained on the same groups: an objective each.",
    "compare.baselines": "Models that are only asked: base, base_plain, teacher.",
}

KEY = "TEACHER_KEY"  # the variable that holds a server's key
MADE = {"num_train": 200, "num_test": 200, "num_ood": 0}  # of problems that a task makes


def begin(
    task: str, teacher: str, student: str, *, path: str = "", api: str = "", gpus: int = 0
) -> tuple[str, Recipe]:
    """-> (YAML with a comment above each field, the recipe it is). The teacher is a model, or one
    behind the server `api`, whose key is in TEACHER_KEY where that is set; `gpus` are those of one
    machine."""
    check_name("--task", task)
    is_made = not hub_of(task) and not path
    name = f"{Path(path).stem or task}_{Path(student).name}"
    tree: dict[str, Any] = {
        "name": re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower(),
        "task": {"name": task} | ({"path": path} if path else MADE if is_made else {}),
        "teacher": {"model": teacher},
        "student": {"model": student},
        "objective": {"kind": "advdistill"},
        "optimizer": {"learning_rate": 1e-5},
        "compare": {"students": [{"kind": "sft"}], "baselines": ["base", "teacher"]},
    }
    if api:
        key = {"api_key_env": KEY} if os.environ.get(KEY) else {}
        tree["teacher"]["engine"] = {"kind": "endpoint", "url": api} | key
    if gpus:
        pools = {"student": {"gpus": 1, "workers": gpus}, "evaluation": {"gpus": 1}}
        tree["pools"] = pools if api else {"teacher": {"gpus": 1, "workers": gpus}} | pools
    recipe = parse_recipe(tree, "of these models")
    return "\n".join(_lines(recipe, tree)) + "\n", recipe


def _lines(recipe: Recipe, tree: dict[str, Any]) -> Iterator[str]:
    values = recipe.model_dump(mode="json", by_alias=True)
    meanings: dict[str, Field] = {}
    for field in fields_of(Recipe):
        meanings.setdefault(field.path, field)
    yield "# All other fields: `fastdistill fields`, or `fastdistill show` of this file."
    yield f"name: {tree['name']}"
    before: list[str] = []
    for path in SHOWN:
        *sections, name = path.split(".")
        found = _at(values, sections)
        if name not in found or _is_beside(path, found, tree):
            continue
        shared = next(
            (i for i, (a, b) in enumerate(zip(sections, before, strict=False)) if a != b),
            min(len(sections), len(before)),
        )
        yield from ("  " * i + f"{sections[i]}:" for i in range(shared, len(sections)))
        before = sections
        indent = "  " * len(sections)
        yield f"{indent}# {_meaning(meanings, path)}"
        given = _at(tree, sections).get(name, found[name])  # without its own defaults
        shown = yaml.safe_dump({name: given}, default_flow_style=True, width=10**6).strip()
        yield f"{indent}{shown[1:-1]}"  # without its braces


def _at(tree: dict[str, Any], sections: list[str]) -> dict[str, Any]:
    """{} where there is no such section."""
    for section in sections:
        inner = tree.get(section)
        tree = inner if isinstance(inner, dict) else {}
    return tree


def _meaning(meanings: dict[str, Field], path: str) -> str:
    field = meanings.get(path)
    said = [MEANINGS.get(path) or (field.meaning if field else "")]
    kinds = path.endswith("engine.kind")  # of which a field knows one
    return " ".join(filter(None, [*said, f"[{field.type}]" if field and not kinds else ""]))


def _is_beside(path: str, found: dict[str, Any], tree: dict[str, Any]) -> bool:
    """What says nothing here: an empty path, the kind of an engine that nobody chose."""
    name = path.rpartition(".")[2]
    is_engines = path.startswith("teacher.engine.") and "engine" not in tree["teacher"]
    return found[name] in ("", None) or (is_engines and name != "max_model_len")
