"""The stages of a recipe: on which sections, inputs and earlier stages each one depends."""

from functools import cached_property
from pathlib import Path
from typing import Any

from fastdistill_ray.digests import file_digest, folder_digest, hub_revision, text_digest
from fastdistill_ray.evaluation.knobs import Model
from fastdistill_ray.generation.knobs import EndpointKnobs, TeacherKnobs
from fastdistill_ray.models import LAYERS, fetch_without_weights, model_identity, tokenizer_of
from fastdistill_ray.prompts import written_by
from fastdistill_ray.recipe.derived import (
    Scorer,
    StudentSpec,
    Training,
    all_teachers,
    former_student,
    judging_by_writer,
    selection_of,
    speaker_of,
)
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards.selection import WHOLE
from fastdistill_ray.run.graph import NEW, Stage, find
from fastdistill_ray.run_files import STAGES
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks import OodKnobs, TaskKnobs, hub_of
from fastdistill_ray.tasks.problem_file import ProblemFile
from fastdistill_ray.tasks.source import HUB
from fastdistill_ray.training.texts import generation_eos

PAID = ("teacher", "teachers", "sampling")  # sections that decide what a teacher writes
SELECTED, WRITTEN, REWRITTEN = "selected_groups", "student_groups", "rewritten_groups"
SIGNALS, TRAIN, NEW_PROBLEMS = "signals", "train", "new_problems"
PROBLEMS = "the problems of task"
TRAINING_FILE = "train.parquet"  # of the stages that make problems
NEW_TEXTS = "written"  # the store of what a teacher wrote for one, in its folder
AS_DRAWN = {"top_p", "top_k", "min_p", "loop_repeats"}
AS_SAMPLED = {"max_new_tokens", "loop_repeats", "seed"}  # of `sampling`, how students write too


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

    def new_problems(self, problems: ProblemFile) -> Stage:
        """The training problems and those that the teacher makes of them."""
        recipe = self.recipe
        drawn = recipe.sampling.model_dump(include=AS_DRAWN)
        sections = {f"sampling.{name}": value for name, value in drawn.items()}
        inputs = {
            "problems": self._id(self.problems()),
            "teacher.model": self._teacher(recipe.teacher),
            PROBLEMS: problems.digest,
        }
        return Stage(NEW_PROBLEMS, "", {"new_problems": recipe.new_problems, **sections}, inputs)

    def groups(self, problems: ProblemFile) -> Stage:
        """The teachers' completions, judged, rewarded and selected."""
        recipe = self.recipe
        sections = {name: getattr(recipe, name) for name in (*PAID, "reward")}
        sections |= {"advantage": recipe.advantage, "selection": recipe.selection}
        inputs = {**self._teachers, PROBLEMS: problems.digest}
        return Stage("groups", "", sections, inputs)

    def groups_of(self, training: Training, problems: ProblemFile) -> Stage:
        """What the student is trained on: the groups, fewer completions of each, those of a part of
        the problems, or what a former student writes."""
        student = training.student
        if student.writer:
            written = self.written(training, problems)
            return self._rewritten(training, written, problems) if student.rewrite else written
        groups = self.groups(problems)
        if not student.has_own_selection:
            return groups
        selection = selection_of(self.recipe, student)
        sections = {"selection": selection, "advantage": self.recipe.advantage}
        inputs = {"groups": self._id(groups)}
        return Stage(SELECTED, _label(student), sections, inputs)

    def written(self, training: Training, problems: ProblemFile) -> Stage:
        """The completions of a former student, judged, rewarded and selected."""
        recipe, student = self.recipe, training.student
        judging = judging_by_writer(recipe, student)
        sections = {
            "sampling": recipe.sampling,
            "student.prompt": recipe.student.prompt,
            "evaluation.engine": recipe.evaluation.engine,
            **judging._asdict(),
        }
        former = training.of(former_student(recipe, student.writer))
        inputs = {
            "writer": self._id(self.training(former, problems)),
            PROBLEMS: problems.digest,
        }
        label = "-".join(filter(None, [f"by_{former.label}", _label(student)]))
        return Stage(WRITTEN, label, sections, inputs)

    def _rewritten(self, training: Training, written: Stage, problems: ProblemFile) -> Stage:
        """What the student itself makes of these, as it begins."""
        recipe, student = self.recipe, training.student
        sections = {
            "rewrite": student.rewrite,
            "student.prompt": recipe.student.prompt,
            "evaluation.engine": recipe.evaluation.engine,
            **judging_by_writer(recipe, student)._asdict(),
        }
        drawn = recipe.sampling.model_dump(include=AS_SAMPLED)
        sections |= {f"sampling.{name}": value for name, value in drawn.items()}
        inputs = {"groups": self._id(written), "student.model": model_identity(student.model)}
        if student.start:
            former = training.of(former_student(recipe, student.start))
            inputs["start"] = self._id(self.training(former, problems))
        paths = {name: f"{student.section}.{name}" for name in ("rewrite", "start")}
        return Stage(REWRITTEN, written.label, sections, inputs, paths)

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
        inputs = {"student.model": model_identity(student.model)}
        if student.is_given_groups:
            inputs["groups"] = self._id(self.groups_of(training, problems))
        if student.rounds:
            sections |= {"rounds": student.rounds, "reward": recipe.reward}
            sections |= {"evaluation.engine": recipe.evaluation.engine}
            drawn = recipe.sampling.model_dump(include=AS_SAMPLED)
            sections |= {f"sampling.{name}": value for name, value in drawn.items()}
            inputs[PROBLEMS] = problems.digest
        if student.objective.needs.signal:
            inputs["signals"] = self._id(self.signals(training, problems))
        elif student.teacher:
            former = training.of(former_student(recipe, student.teacher))
            inputs["teacher"] = self._id(self.training(former, problems))
            sections["student.prompt"] = recipe.student.prompt
        elif student.objective.needs.frozen == "teacher":
            self._add_speaker(student, sections, inputs)
        if student.start:
            former = training.of(former_student(recipe, student.start))
            inputs["start"] = self._id(self.training(former, problems))
        paths = {name: f"{student.section}.{name}" for name in ("teacher", "start")}
        paths |= {"objective": student.section, "student.model": student.model_field}
        paths |= {"rounds": student.rounds_field}
        return Stage(TRAIN, training.label, sections, inputs, paths)

    def signals(self, training: Training, problems: ProblemFile) -> Stage:
        """What is stored of the texts that the student is trained on."""
        recipe, student = self.recipe, training.student
        needs = student.objective.needs
        assert needs.signal
        sections: dict[str, Any] = {
            "signal": needs.signal._asdict(),
            "training.max_seq_len": recipe.training.max_seq_len,
        }
        inputs = {
            "groups": self._id(self.groups_of(training, problems)),
            "ids": reading_of(recipe, student),
        }
        if needs.signal.kind == "random":
            sections["sampling.seed"] = recipe.sampling.seed
        speaker = self._add_speaker(student, sections, inputs)
        sections[f"{speaker.section}.engine"] = speaker.engine
        return Stage(SIGNALS, needs.signal.name, sections, inputs)

    def _add_speaker(
        self, student: StudentSpec, sections: dict[str, Any], inputs: dict[str, str]
    ) -> Scorer:
        speaker = speaker_of(self.recipe, student)
        assert speaker
        sections[f"{speaker.section}.prompt"] = speaker.prompted.prompt
        inputs[speaker.field] = model_identity(speaker.prompted.model)
        return speaker

    def answers(self, model: Model, problems: list[ProblemFile]) -> Stage:
        """A model's judged answers; a student's weights are known by the training they are of."""
        recipe = self.recipe
        sections: dict[str, Any] = {
            "evaluation": recipe.evaluation,
            "reward.verifier": recipe.reward.verifier,
            "prompt": model.prompt,
        }
        if model.endpoint:
            sections["teacher.engine"] = model.endpoint
        inputs = {
            "model": self._answering(model),
            PROBLEMS: " ".join(file.digest for file in problems),
        }
        return Stage("answers", model.name, sections, inputs)

    def ensemble(self, name: str, members: list[Place]) -> Stage:
        """The answers that most of some models give, told by the folders of theirs."""
        inputs = {f"member {place}": folder.name for place, folder in enumerate(members)}
        return Stage("answers", name, {"reward.verifier": self.recipe.reward.verifier}, inputs)

    def overlaps(self, groups: str, tested: list[ProblemFile], size: int) -> Stage:
        """Tested problems in the texts of a groups stage, told by its folder."""
        inputs = {"groups": groups, PROBLEMS: " ".join(file.digest for file in tested)}
        return Stage("overlaps", "", {"task.decontaminate": size}, inputs)

    @cached_property
    def _teachers(self) -> dict[str, str]:
        return {
            f"{name}.model": self._teacher(teacher)
            for name, teacher in all_teachers(self.recipe).items()
        }

    def _answering(self, model: Model) -> str:
        if model.endpoint:
            return f"endpoint:{model.weights}"
        if LAYERS in model.weights:
            return model_identity(model.weights)
        path = Place(model.weights)
        is_ours = path.is_below(self.run / STAGES)  # never changed once complete
        return path.relative_to(self.run) if is_ours else model_identity(model.weights)

    def _teacher(self, teacher: TeacherKnobs) -> str:
        is_remote = isinstance(teacher.engine, EndpointKnobs)
        return f"endpoint:{teacher.model}" if is_remote else model_identity(teacher.model)

    def _id(self, stage: Stage) -> str:
        found = find(self.run, stage)
        return found.folder.name if found else NEW


def training_problems(run: Place, recipe: Recipe) -> ProblemFile | None:
    """Those that groups are made of, where they are all there."""
    stages = Stages(recipe, run)
    found = find(run, stages.problems())
    if not found or not found.is_complete:
        return None
    file = ProblemFile(found.folder / TRAINING_FILE)
    if not recipe.new_problems:
        return file
    made = find(run, stages.new_problems(file))
    return ProblemFile(made.folder / TRAINING_FILE) if made and made.is_complete else None


def _label(student: StudentSpec) -> str:
    """In what the selection of its groups differs from the recipe's."""
    start, end = student.problems
    size = f"of_{student.group_size}" if student.group_size is not None else ""
    part = f"problems_{start:g}_to_{end:g}" if student.problems != WHOLE else ""
    return "-".join(filter(None, [size, part]))


def reading_of(recipe: Recipe, student: StudentSpec) -> str:
    """By what a text's ids are told, and whether it fits: the student's tokenizer and prompt."""
    tokenizer, prompt = tokenizer_of(student.model), recipe.student.prompt
    parts = [f"{token} {place}" for token, place in sorted(tokenizer.get_vocab().items())]
    parts += [str(tokenizer.special_tokens_map), *map(str, written_by(tokenizer, prompt))]
    parts += map(str, generation_eos(fetch_without_weights(student.model)))
    teachers = all_teachers(recipe).values()
    parts += [opening_of(one) for one in teachers if not one.is_remote]
    return text_digest(parts)


def opening_of(teacher: TeacherKnobs) -> str:
    return written_by(tokenizer_of(teacher.model), teacher.prompt).opening


def dataset_identity(knobs: TaskKnobs | OodKnobs) -> str:
    """Content of its file or folder; of a dataset on the hub its name and revision."""
    revision = knobs.revision if isinstance(knobs, TaskKnobs) else ""
    if knobs.path:
        place = Path(knobs.path).expanduser()
        if place.is_file():  # its name says which split it is
            return f"{place.name}@{file_digest(place)}"
        if place.is_dir():
            return f"folder@{folder_digest(place)}"
        if knobs.name != HUB:
            return f"missing:{knobs.path}"
        return f"hub:{knobs.path}@{hub_revision('datasets', knobs.path, revision)}"
    hub = hub_of(knobs.name)
    if not hub:
        return "made"
    revision = hub.arguments.get("revision", "")
    return f"hub:{hub.id}@{hub_revision('datasets', hub.id, revision)}"
