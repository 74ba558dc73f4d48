"""What a recipe cannot ask for whose completions are judged by each other."""

import re

import pytest
from support.jobs import tiny_recipe

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.loading import parse_recipe


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampling": {"n": 2}}, "selection.min_votes: 3 votes cannot be had from groups of 2"),
        ({"sampling": {"max_n": 8}}, "sampling.max_n: it draws until enough"),
        ({"selection": {"min_agreement": 0.5}}, "selection.min_agreement"),
        (
            {"rounds": {"count": 1}, "objective": {"kind": "opd"}, "scorer": {"model": "m"}},
            "rounds: a student's own texts are judged by answers",
        ),
        (
            {"new_problems": {}, "reward": {"reference": "gold"}},
            "new_problems: nobody knows their answers",
        ),
        (
            {"task": {"unlabelled": True}, "reward": {"reference": "gold"}},
            "task.unlabelled: true needs completions to be judged without answers",
        ),
    ],
)
def test_what_a_vote_cannot_do_is_said_with_its_field(changes, said):
    sections = {"reward": {"reference": "vote"}} | changes
    with pytest.raises(UserError, match=re.compile(said)):
        parse_recipe(tiny_recipe("m", **sections), "x.yaml")
