"""What cannot be had with a student that writes what it is trained on, each in one line."""

import re

import pytest
from support.jobs import tiny_recipe

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.derived import students
from fastdistill_ray.recipe.loading import parse_recipe
from fastdistill_ray.recipe.tree import Recipe

HELD_OUT = {"held_out": {"share": 0.2, "every": 1}}
VLLM = {"engine": {"kind": "vllm", "max_model_len": 1024}}


def recipe_of(**changes: dict | list) -> Recipe:
    sections = {"objective": {"kind": "opd"}, "rounds": {"count": 2}, "evaluation": VLLM} | changes
    return parse_recipe(tiny_recipe("m", **sections), "x.yaml")


def test_student_has_rounds_of_its_own_and_the_others_are_trained_on_the_store():
    compared = [{"kind": "sft"}, {"kind": "jsd", "rounds": {"count": 3, "mix": 0.5}}]
    found = students(recipe_of(compare={"students": compared}))
    assert [one.reads_groups for one in found] == [False, True, True]
    assert [one.rounds and one.rounds.count for one in found] == [2, None, 3]
    assert found[2].rounds_field == "compare.students.1.rounds"
    assert found[2].rounds and found[2].rounds.num_own(4) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": None}, "objective.kind: opd learns from texts .*; set rounds.count"),
        ({"rounds": {}}, "rounds.count"),
        ({"rounds": {"count": 0}}, "rounds.count"),
        ({"rounds": {"count": 2, "mix": 1.0}}, "rounds.mix"),
        ({"rounds": {"count": 2, "mix": 0.5}}, "rounds.mix: opd .* own draws alone; leave it out"),
        (
            {"rounds": {"count": 2, "mix": 0.9}, "objective": {"kind": "jsd"}},
            "rounds.mix: 0.9 leaves the student none of training.groups_per_step = 4",
        ),
        (
            {
                "rounds": {"count": 2, "mix": 0.5},
                "objective": {"kind": "jsd"},
                "teacher": {"model": "m", "prompt": {"template": "plain"}},
            },
            "rounds: m is a teacher too, whose prompt has another chat template",
        ),
        (
            {"rounds": None, "objective": {"kind": "distillm2"}},
            "objective.kind: distillm2 learns from texts .*; set rounds.count",
        ),
        (
            {"objective": {"kind": "distillm2"}},
            "rounds.mix: 0 leaves teachers none of training.groups_per_step = 4, .*; set 0.5",
        ),
        (
            {"compare": {"students": [{"kind": "distillm2", "rounds": {"count": 1, "mix": 0.1}}]}},
            "compare.students.0.rounds.mix: 0.1 leaves teachers none of .* distillm2 of",
        ),
        (
            {"objective": {"kind": "step_by_step"}},
            "rounds: step_by_step of objective learns from teachers' texts with thoughts",
        ),
        (
            {"rounds": {"count": 2, "adaptive": {}}, "training": HELD_OUT},
            "rounds.adaptive: opd .* own draws alone; leave it out",
        ),
        (
            {"rounds": {"count": 2, "adaptive": {}}, "objective": {"kind": "skew_kl"}},
            "rounds.adaptive: the share grows .* held-out groups; set training.held_out.share",
        ),
        (
            {
                "rounds": {"count": 2, "adaptive": {}, "mix": 0.5},
                "objective": {"kind": "skew_kl"},
                "training": HELD_OUT,
            },
            "rounds.mix: rounds.adaptive sets the share; leave out one",
        ),
        (
            {
                "rounds": {"count": 2, "adaptive": {}, "staleness": 1},
                "objective": {"kind": "skew_kl"},
                "training": HELD_OUT,
            },
            "rounds.staleness: .*; set 0",
        ),
        (
            {
                "rounds": {"count": 5, "steps": 2, "adaptive": {}},
                "objective": {"kind": "skew_kl"},
                "training": {"held_out": {"share": 0.2}},
            },
            "training.held_out.every: 400 leaves no validation .* never rises; set at most 8",
        ),
        (
            {
                "rounds": {"count": 1, "steps": 8, "adaptive": {}},
                "objective": {"kind": "skew_kl"},
                "training": HELD_OUT,
            },
            "rounds.count: the share grows from one round .*; set 2 or more",
        ),
        (
            {
                "rounds": {"count": 2, "adaptive": {}},
                "objective": {"kind": "distillm2"},
                "training": HELD_OUT,
            },
            "rounds.adaptive: teachers' share may come to none.*; set rounds.mix",
        ),
        ({"rounds": {"count": 2, "temperature": 0.7}}, "rounds.temperature: .*; set 1"),
        (
            {
                "rounds": {"count": 2, "mix": 0.1},
                "objective": {"kind": "opd", "form": "full"},
            },
            "rounds.mix: 0.1 of training.groups_per_step = 4 is no whole group",
        ),
        (
            {
                "rounds": {"count": 2, "mix": 0.5},
                "objective": {"kind": "jsd"},
                "training": HELD_OUT,
            },
            "training.held_out.share: 0.2 of the groups is held out of every training but rounds",
        ),
        (
            {"rounds": {"count": 2, "n": 1}, "objective": {"kind": "opd", "reward": 0.5}},
            "rounds.n: opd of objective compares the completions of a problem; set 2 or more",
        ),
        (
            {"compare": {"students": [{"kind": "dpo", "rounds": {"count": 2, "n": 1}}]}},
            "compare.students.0.rounds.n: dpo .* compares the completions",
        ),
        (
            {"evaluation": {"engine": {"kind": "scripted"}}},
            "rounds: a scripted evaluation.engine tells no probabilities",
        ),
        ({"training": {"overlap": True}}, "training.overlap: true and rounds cannot"),
        (
            {"training": {"held_out": {"share": 0.2, "best_metric": "loss"}}},
            "training.held_out.best_metric: of rounds the last student",
        ),
        (
            {"objective": {"kind": "jsd", "states": "bf16"}, "scorer": {"model": "m"}},
            "rounds: nothing is stored of texts that are yet to be written",
        ),
        (
            {"compare": {"students": [{"kind": "jsd", "group_size": 2, "rounds": {"count": 1}}]}},
            "compare.students.0.rounds: its groups are of .*; leave out group_size",
        ),
        (
            {"compare": {"students": [{"kind": "opd", "name": "second"}]}},
            "compare.students.0.kind: opd .*; set compare.students.0.rounds.count",
        ),
        (
            {"evaluation": {"engine": {"kind": "vllm", "max_model_len": 128}}},
            "sampling.max_new_tokens: 128 leaves no room .* evaluation.engine.max_model_len = 128",
        ),
        (
            {"pools": {"student": {"workers": 40}}},
            "pools.student.workers: 40 ranks, and a step of opd has at most 16 completions",
        ),
    ],
)
def test_what_cannot_be_had_is_said_with_its_field(changes, said):
    with pytest.raises(UserError, match=re.compile(said)):
        recipe_of(**changes)


def test_whole_distributions_are_learnt_of_mixed_texts_at_any_temperature():
    rounds = {"count": 2, "mix": 0.25, "temperature": 0.5}
    recipe_of(objective={"kind": "opd", "form": "full"}, rounds=rounds)


def test_share_that_grows_needs_teachers_groups_beside_the_students_own():
    rounds = {"count": 2, "adaptive": {"rise": 0.2}}
    recipe = recipe_of(objective={"kind": "skew_kl"}, rounds=rounds, training=HELD_OUT)
    assert students(recipe)[0].reads_groups
