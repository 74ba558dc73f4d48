"""What can be known to go wrong before anything expensive starts, and the plan of a recipe.

Every check raises UserError with one line: the field, what is wrong, what to do.
"""

import importlib.util
import logging
import uuid
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Protocol

import ray
from ray.exceptions import TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fastdistill_ray.errors import UserError
from fastdistill_ray.evaluation.knobs import Model
from fastdistill_ray.generation.knobs import EndpointKnobs, EngineKnobs
from fastdistill_ray.generation.requests import build_requests
from fastdistill_ray.models import (
    check_architecture,
    context_length,
    fetch_without_weights,
    is_here,
    tokenizer_of,
)
from fastdistill_ray.prompts import CLOSE, OPEN, PromptKnobs, check_prompt, written_by
from fastdistill_ray.recipe.compare import ComparedModel
from fastdistill_ray.recipe.derived import all_teachers, baselines, students, writers
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.records import Problem, Split
from fastdistill_ray.rewards import Scorer
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.weights import check_weights
from fastdistill_ray.tasks import words_in_a_row
from fastdistill_ray.tasks.decontamination import overlaps, runs_of_words
from fastdistill_ray.training.trackers import tracker_packages

logger = logging.getLogger(__name__)


class Problems(Protocol):
    """A list of problems, or a file of them."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Problem]: ...


def check_packages(recipe: Recipe) -> None:
    """What a recipe names beyond the project's own requirements is installed."""
    needed = tracker_packages(recipe.tracking)
    if recipe.optimizer.kind == "adamw8bit":
        needed["torchao"] = "optimizer.kind"
    for package, field in needed.items():
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{field}: the package {package} is missing; pip install {package}")


def check_models(recipe: Recipe) -> None:
    """Models are there, have a chat template, and their context holds what the engine is told."""
    asked = ("evaluation.engine", recipe.evaluation.engine)
    models: dict[tuple[str, str], tuple[str, EngineKnobs]] = {
        ("student.model", recipe.student.reference): asked
    }
    models |= {("compare.students", student.model): asked for student in students(recipe)[1:]}
    models |= {
        ("compare.baselines", other.model): asked
        for other in recipe.compare.baselines
        if isinstance(other, ComparedModel)
    }
    for name, teacher in all_teachers(recipe).items():
        if not isinstance(teacher.engine, EndpointKnobs):
            models[f"{name}.model", teacher.model] = (f"{name}.engine", teacher.engine)
    if scorer := recipe.scorer:
        models["scorer.model", scorer.model] = ("scorer.engine", scorer.engine)
    for (field, reference), (section, engine) in models.items():
        folder = fetch_without_weights(reference)
        check_architecture(folder)
        if is_here(reference):
            check_weights(Path(folder))
        longest = context_length(folder)
        if engine.max_model_len > longest:
            raise UserError(
                f"{section}.max_model_len: {engine.max_model_len} is more than the context of "
                f"{field} {reference}, {longest}"
            )


def check_templates(recipe: Recipe) -> None:
    """Every model's chat template writes its prompts whole, and students begin as teachers did."""
    openings: dict[str, str] = {}
    of_model: dict[str, str] = {}
    for name, teacher in all_teachers(recipe).items():
        field, prompt = f"{name}.prompt", teacher.prompt
        if not isinstance(teacher.engine, EndpointKnobs):
            tokenizer = tokenizer_of(teacher.model)
            check_prompt(field, teacher.model, tokenizer, prompt)
            for place, other in enumerate(teacher.prompts):
                check_prompt(f"{name}.prompts.{place}", teacher.model, tokenizer, other)
            openings[field] = written_by(tokenizer, prompt).opening
            first = of_model.setdefault(teacher.model, field)
            if openings[field] != openings[first]:
                raise UserError(
                    f"{field}: {teacher.model} is the model of {first} too, whose template opens "
                    "answers otherwise: their texts could not be told apart; give both one "
                    "template and template_args, or a copy of the model in another folder"
                )
        elif prompt.template or prompt.template_args:
            raise UserError(
                f"{field}.template: the endpoint renders prompts by a template of its own; leave "
                "template and template_args empty"
            )
    teacher, made = recipe.teacher, recipe.new_problems
    if made and not teacher.is_remote:
        field, tokenizer = "new_problems.prompt", tokenizer_of(teacher.model)
        check_prompt(field, teacher.model, tokenizer, made.prompt)
    if scorer := recipe.scorer:
        check_prompt("scorer.prompt", scorer.model, tokenizer_of(scorer.model), scorer.prompt)
    prompt = recipe.student.prompt
    for student in students(recipe):
        tokenizer = tokenizer_of(student.model)
        check_prompt("student.prompt", student.model, tokenizer, prompt)
        begun = written_by(tokenizer, prompt).opening
        for field, other in openings.items():
            if CLOSE in begun and other != begun:
                raise UserError(
                    f"student.prompt: the chat template of {student.model} writes an empty "
                    f"{OPEN} block itself, that of {field} does not, so that thoughts of the "
                    "teacher would follow it; set student.prompt.template_args or template, such "
                    "as template_args: {enable_thinking: true}"
                )
    for place, one in enumerate(recipe.compare.baselines):
        if isinstance(one, ComparedModel):
            field = f"compare.baselines.{place}.prompt"
            check_prompt(field, one.model, tokenizer_of(one.model), one.prompt)


def check_lengths(recipe: Recipe) -> None:
    """Texts that are trained on fit into the context of every student."""
    longest = recipe.training.max_seq_len
    for student in students(recipe):
        context = context_length(fetch_without_weights(student.model))
        if longest > context:
            raise UserError(
                f"training.max_seq_len: {longest} is more than the context of "
                f"{student.model_field} {student.model}, {context}; longer texts would be trained "
                "at positions it does not know"
            )


def check_rewards(recipe: Recipe) -> None:
    """The user's functions load, and the key of an endpoint is there."""
    with Scorer(recipe.reward) as scorer:
        scorer.check()


def check_prompts(recipe: Recipe, problems: Mapping[Split, Problems]) -> None:
    """There are problems, and at least one prompt of each role leaves room for a completion."""
    if not problems["train"]:
        raise UserError(f"task.name {recipe.task.name}: it has no training problems")
    if not problems["test"] and not problems["ood"]:
        raise UserError(f"task.name {recipe.task.name}: it has no test problems")
    labels = {f"{one.section}.labels": one.labels for one in students(recipe)}
    voted = {"reward.reference": recipe.reward.reference, **labels}
    if field := next((name for name, value in voted.items() if value == "vote"), ""):
        for one in problems["train"]:
            if one.kind == "scored":
                raise UserError(
                    f"{field}: vote compares answers with each other, and those to "
                    f"{one.problem_id} are only known to be right by its data set; set gold"
                )
    _check_tasks(recipe, {one.task for one in problems["train"]})
    for student in writers(recipe):
        _check_prompt(
            "evaluation.engine",
            *(student.model, recipe.student.prompt, recipe.evaluation.engine),
            *(recipe.sampling.max_new_tokens, problems["train"]),
        )
    for name, teacher in all_teachers(recipe).items():
        if not isinstance(teacher.engine, EndpointKnobs):
            _check_prompt(
                f"{name}.engine",
                teacher.model,
                teacher.prompt,
                teacher.engine,
                recipe.sampling.max_new_tokens,
                problems["train"],
            )
    _check_prompt(
        "evaluation.engine",
        recipe.student.reference,
        recipe.student.prompt,
        recipe.evaluation.engine,
        recipe.evaluation.max_new_tokens,
        problems["test"] or problems["ood"],
    )
    for other in recipe.compare.baselines:
        if isinstance(other, ComparedModel):
            _check_prompt(
                *("evaluation.engine", other.model, other.prompt, recipe.evaluation.engine),
                recipe.evaluation.max_new_tokens,
                problems["test"] or problems["ood"],
            )


def check_shots(recipe: Recipe, problems: Mapping[Split, Problems]) -> None:
    """No worked example overlaps a problem that models are tested on."""
    if not (size := words_in_a_row(recipe.task)):
        return
    tested = runs_of_words(chain(problems["test"], problems["ood"]), size)
    prompts = {f"{name}.prompt": one.prompt for name, one in all_teachers(recipe).items()}
    prompts |= {
        f"{name}.prompts.{place}": other
        for name, teacher in all_teachers(recipe).items()
        for place, other in enumerate(teacher.prompts)
    }
    prompts["student.prompt"] = recipe.student.prompt
    if recipe.new_problems:
        prompts["new_problems.prompt"] = recipe.new_problems.prompt
    prompts |= {
        f"compare.baselines.{place}.prompt": other.prompt
        for place, other in enumerate(recipe.compare.baselines)
        if isinstance(other, ComparedModel)
    }
    for name, prompt in prompts.items():
        for place, shot in enumerate(prompt.shots):
            if found := overlaps(shot.question, tested, size):
                raise UserError(
                    f"{name}.shots.{place}: its question overlaps that of {min(found)}, "
                    f"which models are tested on ({size} words in a row, or all); take another "
                    "example, or set task.decontaminate: 0"
                )


def check_answerable(recipe: Recipe, problems: Mapping[Split, Problems]) -> None:
    """Says how many test problems a model's prompt leaves no room for: they are left out for it,
    and it is compared with others on the rest."""
    room = recipe.evaluation.engine.max_model_len - recipe.evaluation.max_new_tokens
    models = [*baselines(recipe), Model("student", recipe.student.reference, recipe.student.prompt)]
    for model in (one for one in models if not one.endpoint):
        tokenizer = tokenizer_of(model.weights)
        for split in ("test", "ood"):
            rows = build_requests(problems[split], model.prompt, tokenizer, 0)
            too_long = [row for row in rows if len(row["prompt_token_ids"]) > room]
            if too_long:
                logger.warning(
                    "evaluation.engine.max_model_len: the prompt of %s is too long for %d of %d "
                    "%s problems, such as %s; it is compared on the others",
                    *(model.name, len(too_long), len(rows), split, too_long[0]["problem_id"]),
                )


def _check_tasks(recipe: Recipe, tasks: set[str]) -> None:
    """Every task of the training problems has a teacher, and every teacher such a task."""
    teachers = all_teachers(recipe)
    for name, teacher in teachers.items():
        if teacher.tasks and not tasks & set(teacher.tasks):
            raise UserError(
                f"{name}.tasks: no training problem is of {', '.join(teacher.tasks)}; they are of "
                f"{', '.join(sorted(tasks))}"
            )
    for task in sorted(tasks):
        if not any(not one.tasks or task in one.tasks for one in teachers.values()):
            raise UserError(f"teacher.tasks: no teacher takes problems of task {task}")


def _check_prompt(
    section: str,
    model: str,
    prompt: PromptKnobs,
    engine: EngineKnobs,
    new_tokens: int,
    problems: Problems,
) -> None:
    shortest = min(problems, key=lambda problem: len(problem.question))
    row = build_requests([shortest], prompt, tokenizer_of(model), 0)[0]
    num_tokens = len(row["prompt_token_ids"])
    if num_tokens + new_tokens > engine.max_model_len:
        raise UserError(
            f"{section}.max_model_len: {engine.max_model_len} does not hold even the prompt of "
            f"{shortest.problem_id} ({num_tokens} tokens) and {new_tokens} new tokens"
        )


def check_shared_folder(path: Place) -> None:
    """Every node sees the run folder: a file written here is read on each of them."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    token = uuid.uuid4().hex
    probe = path / f"probe-{token}"
    probe.put(token)
    try:
        answers = [
            ray.remote(_reads)
            .options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(probe, token)
            for node in nodes
        ]
        blind = [
            node["NodeManagerAddress"]
            for node, answer in zip(nodes, answers, strict=True)
            if not _is_seen(answer)
        ]
    finally:
        probe.unlink()
    if blind:
        raise UserError(
            f"--run-dir {path}: node {blind[0]} and {len(blind) - 1} others do not see this "
            "folder; name one that all nodes share: a bucket (s3://...) or a mount such as NFS"
        )


def _is_seen(answer: "ray.ObjectRef[bool]") -> bool:
    """A node that is gone by now, as an autoscaler takes idle ones away, says nothing."""
    try:
        return ray.get(answer)
    except TaskUnschedulableError:
        return True


def _reads(file: Place, token: str) -> bool:
    try:
        return file.read_text() == token
    except OSError:
        return False
