"""Students whose teacher is another student: who may teach whom, and what is beside whom."""

import re

import pytest
from support.jobs import tiny_recipe

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.derived import frozen_model, speaker_of, students
from fastdistill_ray.recipe.loading import parse_recipe
from fastdistill_ray.recipe.tree import Recipe


def recipe_of(*compared: dict, **changes: dict) -> Recipe:
    sections = {"objective": {"kind": "sft"}, "compare": {"students": list(compared)}} | changes
    return parse_recipe(tiny_recipe("m", **sections), "x.yaml")


def test_former_student_stands_beside_the_next_with_the_students_own_prompt():
    recipe = recipe_of(
        {"kind": "forward_kl", "name": "second", "teacher": "sft", "model": "other"},
        {"kind": "jsd", "name": "third", "teacher": "second"},
        {"kind": "jsd", "name": "of_the_teacher"},
        teacher={"model": "t", "engine": {"kind": "scripted"}},
    )
    beside = [frozen_model(recipe, student) for student in students(recipe)]
    assert [one and one.model for one in beside] == [None, "m", "other", "t"]
    assert beside[1] and beside[1].prompt == recipe.student.prompt
    fields = [one and one.field for one in (speaker_of(recipe, s) for s in students(recipe))]
    assert fields == [None, "student.model", "compare.students.0.model", "teacher.model"]


@pytest.mark.parametrize(
    ("compared", "said"),
    [
        (
            [{"kind": "jsd", "teacher": "third"}, {"kind": "jsd", "name": "third"}],
            "compare.students.0.teacher: third is no student before it; those are sft",
        ),
        (
            [{"kind": "jsd", "teacher": "jsd"}],
            "compare.students.0.teacher: jsd is no student be",
        ),
        (
            [{"kind": "advdistill", "teacher": "sft"}],
            "compare.students.0.teacher: advdistill learns from texts alone",
        ),
        (
            [{"kind": "topk_kl", "teacher": "sft"}],
            "compare.students.0.teacher: a former student is asked live",
        ),
    ],
)
def test_chain_that_cannot_be_is_said_with_its_field(compared, said):
    with pytest.raises(UserError, match=re.compile(said)):
        recipe_of(*compared)
