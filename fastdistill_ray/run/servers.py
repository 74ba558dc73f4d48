"""Endpoints that a run is still to ask: each answers, takes the key, and knows its model."""

from fastdistill_ray.endpoints.client import check_server
from fastdistill_ray.recipe.derived import all_teachers, baselines
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards.llm_judge import SECTION
from fastdistill_ray.rewards.scorer import LLM_JUDGE
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.graph import find
from fastdistill_ray.run.stages import training_problems
from fastdistill_ray.tasks.problem_file import ProblemFile


def check_servers(recipe: Recipe) -> None:
    """UserError where a teacher or judge behind an endpoint cannot be asked from this machine."""
    for name, teacher in all_teachers(recipe).items():
        if teacher.endpoint:
            check_server(f"{name}.engine", f"{name}.model", teacher.model, teacher.endpoint)
    judge = recipe.reward.llm_judge
    if judge and LLM_JUDGE in recipe.reward.weights:
        check_server(SECTION, f"{SECTION}.model", judge.model, judge)


def check_asked(run: RunFolder, verb: str) -> None:
    """UserError as `check_servers`, where the verb is to ask them for what is not there yet."""
    if verb in ("distill", "generate") and not _has_groups(run):
        check_servers(run.recipe)
    elif verb in ("distill", "evaluate") and not _has_answers(run):
        teacher = run.recipe.teacher
        if teacher.endpoint:
            check_server("teacher.engine", "teacher.model", teacher.model, teacher.endpoint)


def _has_groups(run: RunFolder) -> bool:
    problems = training_problems(run.path, run.recipe)
    return bool(problems) and run.is_complete(run.stages.groups(problems))


def _has_answers(run: RunFolder) -> bool:
    """Of all baselines behind an endpoint."""
    problems = _problems(run)
    models = [model for model in baselines(run.recipe) if model.endpoint]
    return not models or (
        bool(problems)
        and all(
            run.is_complete(run.stages.answers(model, [problems["test"], problems["ood"]]))
            for model in models
        )
    )


def _problems(run: RunFolder) -> dict[str, ProblemFile]:
    """By split; none where they are not there yet."""
    found = find(run.path, run.stages.problems())
    if found is None or not found.is_complete:
        return {}
    splits = ("test", "ood")
    return {split: ProblemFile(found.folder / f"{split}.parquet") for split in splits}
