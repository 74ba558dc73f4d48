"""What follows from a recipe and is written in it nowhere."""

from fastdistill_ray.generation.knobs import TeacherKnobs
from fastdistill_ray.objectives import AdvDistill
from fastdistill_ray.recipe.compare import Student
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards.selection import Judging


def students(recipe: Recipe) -> list[Student]:
    """Every student the recipe trains, its own first; the one place that derives them."""
    rates = recipe.compare.learning_rates or [recipe.optimizer.learning_rate]
    own, model = recipe.objective, recipe.student.model
    size = recipe.selection.group_size or recipe.sampling.n
    return [
        Student(own.kind, own, model, None, rates),
        *(
            Student(
                other.name or other.objective.kind,
                other.objective,
                other.model or model,
                other.group_size if other.group_size != size else None,
                rates,
            )
            for other in recipe.compare.students
        ),
    ]


def all_teachers(recipe: Recipe) -> dict[str, TeacherKnobs]:
    """The recipe's section of each teacher -> the teacher, `teacher` first."""
    further = {f"teachers.{i}": teacher for i, teacher in enumerate(recipe.teachers)}
    return {"teacher": recipe.teacher, **further}


def judging_of(recipe: Recipe) -> Judging:
    tau = getattr(recipe.objective, "tau", AdvDistill().tau)
    return Judging(recipe.reward, recipe.advantage, recipe.selection, tau)
