"""Students whose teacher is another student, or that begin as one: who may, and as what."""

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


def test_student_that_begins_as_another_is_of_that_ones_model():
    recipe = recipe_of(
        {"kind": "sft", "name": "small", "model": "other"},
        {"kind": "dpo", "start": "small"},
        {"kind": "forward_kl", "start": "dpo", "teacher": "sft"},
    )
    found = students(recipe)
    assert [one.model for one in found] == ["m", "other", "other", "other"]
    assert {one.model_field for one in found[1:]} == {"compare.students.0.model"}
    beside = frozen_model(recipe, found[3])
    assert beside and beside.model == "m", "who teaches is not who it begins as"


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
        (
            [{"kind": "dpo", "start": "dpo"}],
            "compare.students.0.start: dpo is no student before it; those are sft",
        ),
        (
            [{"kind": "advdistill", "start": "sft", "model": "other"}],
            "compare.students.0.model: it begins as sft",
        ),
        (
            [{"kind": "dpo", "start": "sft", "reference": "stored"}],
            "compare.students.0.start: what sft thinks of the texts is not stored",
        ),
    ],
)
def test_chain_that_cannot_be_is_said_with_its_field(compared, said):
    with pytest.raises(UserError, match=re.compile(said)):
        recipe_of(*compared)
