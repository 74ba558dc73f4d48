"""What follows from a recipe and is written in it nowhere."""

from typing import Literal, NamedTuple

from fastdistill_ray.evaluation.gaps import Gap
from fastdistill_ray.evaluation.knobs import Model
from fastdistill_ray.generation.knobs import EndpointKnobs, EngineKnobs, TeacherKnobs
from fastdistill_ray.groups.rewriting import RewriteKnobs
from fastdistill_ray.objectives import Objective
from fastdistill_ray.objectives.contract import Needs
from fastdistill_ray.prompts import Prompted, PromptKnobs
from fastdistill_ray.recipe.compare import ComparedModel
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards.selection import WHOLE, Judging, SelectionKnobs
from fastdistill_ray.rounds.knobs import RoundsKnobs
from fastdistill_ray.training.knobs import TrainingKnobs


class StudentSpec(NamedTuple):
    """A student to be trained, with nothing left to look up."""

    name: str
    objective: Objective
    model: str
    group_size: int | None  # only where it differs from that of the recipe's groups
    learning_rates: list[float]
    seeds: list[int]
    rounds: RoundsKnobs | None
    writer: str  # the name of the student whose texts it is trained on; "": the teachers'
    labels: Literal["gold", "vote", "none"] | None  # of those; None: reward.reference
    rewrite: RewriteKnobs | None  # how it makes texts of its own of them
    problems: tuple[float, float]  # the part of them that it is trained on
    teacher: str  # the name of the student that is its teacher; "": the recipe's own
    start: str  # the name of the student that it begins as; "": its model
    section: str  # of the recipe: where the objective's knobs stand
    model_field: str  # of the recipe: where the model stands

    @property
    def rounds_field(self) -> str:
        return "rounds" if self.section == "objective" else f"{self.section}.rounds"

    @property
    def is_given_groups(self) -> bool:
        """Whether it is trained on groups that are there before it is trained, be it in part."""
        return self.rounds is None or self.rounds.is_mixed

    @property
    def reads_groups(self) -> bool:
        """Whether teachers wrote those."""
        return self.is_given_groups and not self.writer

    @property
    def has_own_selection(self) -> bool:
        """Whether its groups are selected otherwise than those of the recipe."""
        return self.group_size is not None or self.problems != WHOLE

    def most_steps(self, training: TrainingKnobs, num_groups: int) -> int:
        """Updates of one training, where `num_groups` can be had of teachers."""
        steps = training.epochs * -(-num_groups // training.groups_per_step)
        steps = self.rounds.total_steps if self.rounds else steps
        return min(steps, training.max_steps or steps)

    @property
    def trainings(self) -> list["Training"]:
        """In the order they are done."""
        return [Training(self, rate, seed) for rate in self.learning_rates for seed in self.seeds]


class Training(NamedTuple):
    """One training of a student."""

    student: StudentSpec
    learning_rate: float
    seed: int

    def of(self, student: StudentSpec) -> "Training":
        """That of another student with the same learning rate, or its only one, and seed."""
        is_same = self.learning_rate in student.learning_rates
        rate = self.learning_rate if is_same else student.learning_rates[0]
        return self._replace(student=student, learning_rate=rate)

    @property
    def told_seed(self) -> int | None:
        """The seed where several tell trainings apart."""
        return self.seed if len(self.student.seeds) > 1 else None

    @property
    def label(self) -> str:
        label = f"{self.student.name}-lr_{self.learning_rate:g}"
        return label if self.told_seed is None else f"{label}-seed_{self.seed}"


def students(recipe: Recipe) -> list[StudentSpec]:
    """Every student the recipe trains, its own first; the one place that derives them."""
    rates = recipe.compare.learning_rates or [recipe.optimizer.learning_rate]
    seeds = recipe.compare.seeds or [recipe.training.seed]
    own, model = recipe.objective, recipe.student.reference
    size = recipe.selection.group_size or recipe.sampling.most
    first = StudentSpec(
        name=own.kind,
        objective=own,
        model=model,
        group_size=None,
        learning_rates=rates,
        seeds=seeds,
        rounds=recipe.rounds,
        writer="",
        labels=None,
        rewrite=None,
        problems=WHOLE,
        teacher="",
        start="",
        section="objective",
        model_field="student.model",
    )
    specs = [first]
    for place, other in enumerate(recipe.compare.students):
        section = f"compare.students.{place}"
        before = next((one for one in specs if one.name == other.start), first)
        own_model = ""
        if other.model or other.init.layers:
            own_model = other.init.of(other.model or recipe.student.model)
        specs.append(
            StudentSpec(
                name=other.name or other.objective.kind,
                objective=other.objective,
                model=own_model or before.model,
                group_size=other.group_size if other.group_size != size else None,
                learning_rates=[other.learning_rate] if other.learning_rate else rates,
                seeds=seeds,
                rounds=other.rounds,
                writer=other.writer,
                labels=other.labels,
                rewrite=other.rewrite,
                problems=other.problems,
                teacher=other.teacher,
                start=other.start,
                section=section,
                model_field=f"{section}.model" if own_model else before.model_field,
            )
        )
    return specs


def baselines(recipe: Recipe) -> list[Model]:
    """The models that are only asked, in the order of the report."""
    student, teacher = recipe.student, recipe.teacher
    plain = student.prompt.model_copy(update={"system": ""})
    named = {
        "base_plain": Model("base_plain", student.reference, plain),
        "base": Model("base", student.reference, student.prompt),
        "teacher": Model("teacher", teacher.model, teacher.prompt, teacher.endpoint),
    }
    others = [one for one in recipe.compare.baselines if isinstance(one, ComparedModel)]
    return [
        *(model for name, model in named.items() if name in recipe.compare.baselines),
        *(Model(other.name, other.model, other.prompt) for other in others),
    ]


def all_teachers(recipe: Recipe) -> dict[str, TeacherKnobs]:
    """The recipe's section of each teacher -> the teacher, `teacher` first."""
    further = {f"teachers.{i}": teacher for i, teacher in enumerate(recipe.teachers)}
    return {"teacher": recipe.teacher, **further}


class Scorer(NamedTuple):
    """Who is asked about texts; section and field are those a user wrote."""

    prompted: Prompted
    engine: EngineKnobs
    section: str

    @property
    def field(self) -> str:
        return f"{self.section}.model"


def scorer_of(recipe: Recipe) -> Scorer | None:
    """None where the recipe has but an endpoint, which cannot be asked."""
    own, teacher = recipe.scorer, recipe.teacher
    if own:
        return Scorer(Prompted(own.model, own.prompt), own.engine, "scorer")
    if isinstance(teacher.engine, EndpointKnobs):
        return None
    return Scorer(Prompted(teacher.model, teacher.prompt), teacher.engine, "teacher")


def local_prompts(recipe: Recipe) -> dict[str, PromptKnobs]:
    """Of the teachers that are at hand, by model: an endpoint's texts have no ids to be told by."""
    teachers = all_teachers(recipe).values()
    return {one.model: one.prompt for one in teachers if not one.is_remote}


def writers(recipe: Recipe) -> list[StudentSpec]:
    """The students that write texts which students are trained on."""
    all_students = students(recipe)
    named = {student.writer for student in all_students}
    return [one for one in all_students if one.rounds or one.name in named]


def is_writer(recipe: Recipe, student: StudentSpec, scorer: Scorer | None) -> bool:
    """Whether who is asked about the student's texts wrote some itself by the same prompt, with
    their log-probabilities."""
    if scorer is None or student.writer:
        return False
    own = [one for one in all_teachers(recipe).values() if one.model == scorer.prompted.model]
    return bool(recipe.sampling.logprobs and own) and all(
        one.engine.kind == "vllm" and one.prompt == scorer.prompted.prompt for one in own
    )


def speaker_of(recipe: Recipe, student: StudentSpec) -> Scorer | None:
    """Who is asked about what the student is trained on, if anyone: live, or before training."""
    match student.objective.needs.speaker:
        case "teacher" if student.teacher:
            former = former_student(recipe, student.teacher)
            prompted = Prompted(former.model, recipe.student.prompt)
            section = former.model_field.removesuffix(".model")
            return Scorer(prompted, recipe.evaluation.engine, section)
        case "teacher":
            return scorer_of(recipe)
        case "student":
            prompted = Prompted(student.model, recipe.student.prompt)
            section = student.model_field.removesuffix(".model")
            return Scorer(prompted, recipe.evaluation.engine, section)
    return None


def former_student(recipe: Recipe, name: str) -> StudentSpec:
    """One that once trained teaches a student or is what that begins as: its model says what it is
    like before."""
    found = students(recipe)
    return next((one for one in found if one.name == name), found[0])  # one not there is refused


def gaps(recipe: Recipe) -> list[Gap]:
    """Of each student of a writer's texts whose model is another one: with the first student of its
    model and problems that reads texts of teachers and has the same kind of objective."""
    found, own = [], students(recipe)
    for student in own:
        if not student.writer or former_student(recipe, student.writer).model == student.model:
            continue
        found += [
            Gap(student.name, student.writer, other.name)
            for other in own
            if other.reads_groups
            and other.model == student.model
            and other.problems == student.problems
            and other.objective.kind == student.objective.kind
        ][:1]
    return found


def reads_groups(recipe: Recipe) -> bool:
    """Whether any student is trained on what teachers wrote."""
    return any(student.reads_groups for student in students(recipe))


def frozen_model(recipe: Recipe, student: StudentSpec) -> Prompted | None:
    """The model that the student's objective needs beside it in training, if any: whole, or its
    head alone where its hidden states are stored."""
    needs = student.objective.needs
    speaker = speaker_of(recipe, student)
    is_beside = needs.frozen or (needs.signal and needs.signal.kind == "hidden")
    return speaker.prompted if speaker and is_beside else None


class Trained(NamedTuple):
    """What decides on the memory of a student's training."""

    model: str
    frozen: str  # the model that its objective needs beside it, or the head of; "": none
    needs: Needs  # nothing else than what takes memory


def trained_models(recipe: Recipe) -> list[Trained]:
    """Each once, in the order of the students."""
    found = []
    for student in students(recipe):
        frozen, needs = frozen_model(recipe, student), student.objective.needs
        beside = Needs(
            taps=needs.taps,
            bridge=needs.bridge,
            fed=needs.fed,
            across=needs.across,
            relations=needs.relations,
            signal=needs.signal if frozen else None,
        )
        found.append(Trained(student.model, frozen.model if frozen else "", beside))
    return list(dict.fromkeys(found))


def judging_of(recipe: Recipe) -> Judging:
    return Judging(recipe.reward, recipe.advantage, recipe.selection)


def selection_of(recipe: Recipe, student: StudentSpec) -> SelectionKnobs:
    """Of the groups that the student is trained on."""
    knobs = recipe.selection
    if student.group_size is not None:
        knobs = knobs.model_copy(update={"group_size": student.group_size})
    if student.problems != WHOLE:
        knobs = knobs.model_copy(update={"problems": student.problems})
    return knobs


def judging_by_writer(recipe: Recipe, student: StudentSpec) -> Judging:
    """Of the texts that a former student writes for this one."""
    reward, selection = recipe.reward, selection_of(recipe, student)
    if student.labels == "none":
        selection = _of_all(selection)
    elif student.labels:
        reward = reward.model_copy(update={"reference": student.labels})
    return Judging(reward, recipe.advantage, selection)


def judging_of_rounds(recipe: Recipe) -> Judging:
    """Of the texts that a student writes for itself, which are trained on whatever they are."""
    return Judging(recipe.reward, recipe.advantage, _of_all(SelectionKnobs()))


def _of_all(selection: SelectionKnobs) -> SelectionKnobs:
    """The same completions of every group, whatever is right of it and however it votes."""
    every = {"min_correct": 0, "max_correct": None, "min_size": 1, "drop_zero_variance": False}
    return selection.model_copy(update={**every, "min_votes": 0, "min_agreement": 0.0})


def exported_epochs(recipe: Recipe, student: StudentSpec) -> list[int]:
    """Epochs whose end is exported; none where a metric of held-out groups chooses the step."""
    if student.rounds:
        return [1]
    if recipe.training.held_out.best_metric != "none":
        return []
    return recipe.compare.epochs or [recipe.training.epochs]
