"""What a recipe computes in bfloat16 without a GPU, and how slow that is here."""

import pytest
from support.jobs import tiny_recipe

from fastdistill_ray.recipe.loading import parse_recipe
from fastdistill_ray.run.precision import SLOW, check_precision, in_bfloat16, measure_slowness

ENGINE = {"kind": "vllm"}


def recipe_of(**changes):
    return parse_recipe(tiny_recipe("m", training={"precision": "bf16"}, **changes), "r")


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, {"training.precision": "fp32"}),  # scripted engines compute nothing
        (
            {"teacher": {"engine": ENGINE}, "evaluation": {"engine": ENGINE}},
            {
                "training.precision": "fp32",
                "teacher.engine.dtype": "float32",
                "evaluation.engine.dtype": "float32",
            },
        ),
        (
            {"scorer": {"model": "m"}, "pools": {"student": {"gpus": 1}}},
            {"scorer.engine.dtype": "float32"},
        ),
        ({"training": {"precision": "fp32"}}, {}),
    ],
)
def test_fields_that_are_computed_in_bfloat16_without_a_gpu(changes, fields):
    training = {"training": {"precision": "bf16"}} | changes
    assert in_bfloat16(parse_recipe(tiny_recipe("m", **training), "r")) == fields


def test_a_line_names_the_fields_where_it_is_slow_here_and_none_where_it_is_not(caplog):
    slowness = measure_slowness()
    assert slowness > 0
    check_precision(recipe_of())
    if slowness > 2 * SLOW:
        assert "set training.precision: fp32" in caplog.text
    elif slowness < SLOW / 2:
        assert not caplog.text
