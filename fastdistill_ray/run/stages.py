"""The stages of a recipe: on which sections, inputs and earlier stages each one depends."""

from functools import cached_property
from pathlib import Path
from typing import Any

from fastdistill_ray.digests import file_digest, folder_digest, hub_revision
from fastdistill_ray.evaluation.knobs import Model
from fastdistill_ray.generation.knobs import EndpointKnobs, TeacherKnobs
from fastdistill_ray.models import model_identity
from fastdistill_ray.recipe.derived import StudentSpec, Training, all_teachers
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.graph import Stage, find
from fastdistill_ray.run_files import STAGES
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks import OodKnobs, TaskKnobs, hub_of
from fastdistill_ray.tasks.problem_file import ProblemFile

PAID = ("teacher", "teachers", "sampling")  # sections that decide what a teacher writes
SELECTED, TRAIN = "selected_groups", "train"
PROBLEMS = "the problems of task"


class Stages:
    """Stages of a recipe in a run folder; one that others depend on must have a folder first."""

    def __init__(self, recipe: Recipe, run: Place) -> None:
        self.recipe, self.run = recipe, run

    def problems(self) -> Stage:
        task = self.recipe.task
        inputs = {"task.path": dataset_identity(task)}
        if task.ood:
            inputs["task.ood.path"] = dataset_identity(task.ood)
        return Stage("problems", "", {"task": task}, inputs)

    def groups(self, problems: ProblemFile) -> Stage:
        """The teachers' completions, judged, rewarded and selected."""
        recipe = self.recipe
        sections = {name: getattr(recipe, name) for name in (*PAID, "reward")}
        sections |= {"advantage": recipe.advantage, "selection": recipe.selection}
        inputs = {**self._teachers, PROBLEMS: problems.digest}
        return Stage("groups", "", sections, inputs)

    def groups_of(self, student: StudentSpec, problems: ProblemFile) -> Stage:
        """What the student is trained on: the groups, or fewer completions of each."""
        groups = self.groups(problems)
        if student.group_size is None:
            return groups
        selection = self.recipe.selection.model_copy(update={"group_size": student.group_size})
        sections = {"selection": selection, "advantage": self.recipe.advantage}
        inputs = {"groups": self._id(groups)}
        return Stage(SELECTED, f"of_{student.group_size}", sections, inputs)

    def training(self, training: Training, problems: ProblemFile) -> Stage:
        recipe, student = self.recipe, training.student
        rate = {"learning_rate": training.learning_rate}
        sections: dict[str, Any] = {
            "objective": student.objective,
            "optimizer": recipe.optimizer.model_copy(update=rate),
            "training": recipe.training.model_copy(update={"seed": training.seed}),
            "advantage": recipe.advantage,
            "student": recipe.student,
            "compare.epochs": recipe.compare.epochs,
        }
        inputs = {
            "student.model": model_identity(student.model),
            "groups": self._id(self.groups_of(student, problems)),
        }
        if student.objective.needs.frozen == "teacher":
            sections["teacher.prompt"] = recipe.teacher.prompt
            inputs["teacher.model"] = self._teachers["teacher.model"]
        paths = {"objective": student.section, "student.model": student.model_field}
        return Stage(TRAIN, training.label, sections, inputs, paths)

    def answers(self, model: Model, problems: list[ProblemFile]) -> Stage:
        """A model's judged answers; a student's weights are known by the training they are of."""
        recipe = self.recipe
        sections = {
            "evaluation": recipe.evaluation,
            "reward.verifier": recipe.reward.verifier,
            "prompt": model.prompt,
        }
        path = Place(model.weights)
        is_ours = path.is_below(self.run / STAGES)  # never changed once complete
        inputs = {
            "model": path.relative_to(self.run) if is_ours else model_identity(model.weights),
            PROBLEMS: " ".join(file.digest for file in problems),
        }
        return Stage("answers", model.name, sections, inputs)

    @cached_property
    def _teachers(self) -> dict[str, str]:
        return {
            f"{name}.model": self._teacher(teacher)
            for name, teacher in all_teachers(self.recipe).items()
        }

    def _teacher(self, teacher: TeacherKnobs) -> str:
        is_remote = isinstance(teacher.engine, EndpointKnobs)
        return f"endpoint:{teacher.model}" if is_remote else model_identity(teacher.model)

    def _id(self, stage: Stage) -> str:
        found = find(self.run, stage)
        return found.folder.name if found else "new"


def dataset_identity(knobs: TaskKnobs | OodKnobs) -> str:
    """Content of its file or folder; of a dataset on the hub its name and revision."""
    if knobs.path:
        place = Path(knobs.path).expanduser()
        if place.is_file():  # its name says which split it is
            return f"{place.name}@{file_digest(place)}"
        return f"folder@{folder_digest(place)}" if place.is_dir() else f"missing:{knobs.path}"
    hub = hub_of(knobs.name)
    return f"hub:{hub.id}@{hub_revision('datasets', hub.id)}" if hub else "made"
