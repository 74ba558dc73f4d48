"""Fields of a recipe in words and as a schema, held against recipes and pydantic's own refusals."""

import json

import jsonschema
import pytest
import yaml

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.fields import describe_fields, paths_of, schema
from fastdistill_ray.recipe.shapes import SHAPES, job_of
from fastdistill_ray.recipe.shipped import describe_shipped, recipe_place, shipped_recipes


def test_fields_say_type_choices_and_range():
    lines = describe_fields(["engine.dtype", "optimizer.learning_rate", "task.num_train"])
    found = {line.partition(" ")[0]: line for line in lines.splitlines()}
    assert set(found) >= {"teacher.engine.dtype", "optimizer.learning_rate", "task.num_train"}
    assert all("dtype" in name or "learning_rate" in name or "train" in name for name in found)
    assert found["teacher.engine.dtype"].endswith("[bfloat16 | float16 | float32]")
    assert found["optimizer.learning_rate"].endswith("[number, above 0]")
    assert found["task.num_train"].endswith("[integer or none, at least 1]")


def test_fields_are_found_by_their_meaning_after_those_of_that_name():
    found = [line.partition(" ")[0] for line in describe_fields(["Epoch"]).splitlines()]
    assert found[:2] == ["training.epochs", "compare.epochs"]
    assert "training.held_out.best_metric" not in found
    assert "reward.reference" in describe_fields(["most completions of the problem give"])


def test_word_that_no_field_has_is_a_line():
    with pytest.raises(UserError, match="fields flavour: no field"):
        describe_fields(["flavour"])


def test_fields_are_found_by_their_last_name():
    assert paths_of("tau")[0] == "objective.tau"
    assert paths_of("num_train") == ["task.num_train"]


@pytest.mark.parametrize("name", shipped_recipes())
def test_schema_takes_every_shipped_recipe(name):
    tree = yaml.safe_load(recipe_place(name).read_text())
    jsonschema.validate(tree, json.loads(schema(SHAPES[job_of(tree)])))


@pytest.mark.parametrize(
    "tree",
    [
        {"optimizer": {"learning_rate": "fast"}},
        {"optimizer": {"learning_rat": 1e-5}},
        {"teacher": {"model": "m", "engine": {"dtype": "int4"}}},
        {"sampling": {"n": 0}},
    ],
    ids=str,
)
def test_schema_refuses_what_a_recipe_would(tree):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, json.loads(schema()))


def test_every_shipped_recipe_is_listed_with_a_sentence():
    lines = describe_shipped().splitlines()
    assert [line.split()[0] for line in lines] == shipped_recipes()
    for line in lines:
        said = line.partition("  ")[2].strip()
        assert len(said.split()) > 3 and "fastdistill distill" not in said, line
