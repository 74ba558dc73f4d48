"""What can be known of a recipe on this machine before a cluster is asked; a job begins with the
same."""

import tempfile
from collections.abc import Iterator, Mapping

from fastdistill_ray.models import fetch_without_weights
from fastdistill_ray.recipe.tree import AnyRecipe, Recipe
from fastdistill_ray.records import SPLITS, Problem, Split
from fastdistill_ray.rewards.scorer import Answered, RewardKnobs, scores_without_number
from fastdistill_ray.run import doctor, student_checks
from fastdistill_ray.run.inputs import check_files, write_tasks
from fastdistill_ray.run.memory import memory_plans
from fastdistill_ray.run.servers import check_servers
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile


def check_models(recipe: Recipe) -> None:
    """Of every model its config, tokenizer and chat template, which are downloaded where they are
    not here; weights are not."""
    doctor.check_packages(recipe)
    doctor.check_models(recipe)
    doctor.check_templates(recipe)
    student_checks.check_frozen(recipe)
    doctor.check_lengths(recipe)


def check_sources(recipe: Recipe) -> None:
    """The user's reward functions, and the servers of teachers and judges."""
    doctor.check_rewards(recipe)
    check_servers(recipe)


def check_problems(recipe: Recipe, problems: Mapping[Split, ProblemFile]) -> None:
    """Prompts have room, worked examples are no test problems, the answer can be written."""
    doctor.check_prompts(recipe, problems)
    doctor.check_shots(recipe, problems)
    doctor.check_answerable(recipe, problems)


def faults_of_functions(reward: RewardKnobs, problem: Problem) -> list[str]:
    """A line for each of the user's own rewards that counts and gives no number for a right answer
    in the paper's format; another format may be what it reads, so that a run is not refused."""
    answer = problem.reference or "1"
    text = f"<think>{answer}</think>\n<answer>\\boxed{{{answer}}}</answer>"
    asked = problem.question, problem.kind, problem.reference
    return scores_without_number(reward, Answered(text, 16, "stop", *asked, "correct", answer))


def validate(recipe: AnyRecipe) -> Iterator[str]:
    """A line for each thing that was looked at and is well; UserError at the first that is not.
    Of what is no distillation only the files are."""
    check_files(recipe)
    if not isinstance(recipe, Recipe):
        yield "files: there"
        return
    check_models(recipe)
    yield "models: configs, tokenizers, templates and context lengths fit the recipe"
    check_sources(recipe)
    yield "rewards: functions load; servers of teachers and judges answer and take their keys"
    with tempfile.TemporaryDirectory() as folder:
        found = write_tasks([recipe.task], out=Place(folder))
        problems: dict[Split, ProblemFile] = {
            split: ProblemFile(Place(folder) / f"{split}.parquet") for split in SPLITS
        }
        check_problems(recipe, problems)
        faults = faults_of_functions(recipe.reward, next(iter(problems["train"])))
        counts = ", ".join(f"{len(file):,} {split}" for split, file in problems.items())
    left = "".join(f", {number} left out ({why})" for why, number in found.set_aside.items())
    yield f"problems: {counts}{left}; prompts leave room for answers"
    yield from faults
    student_checks.check_students(recipe)
    yield "students: small copies are trained, exported and loaded as transformers does it"
    for model, memory in memory_plans(recipe, fetch_without_weights).items():
        if memory:
            yield f"memory: {model}: {memory.describe()}"
