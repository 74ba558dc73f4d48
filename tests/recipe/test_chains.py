"""Students whose teacher is another student, or that begin as one: who may, and as what."""

import re

import pytest
from support.jobs import tiny_recipe

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.derived import (
    frozen_model,
    gaps,
    judging_by_writer,
    selection_of,
    speaker_of,
    students,
)
from fastdistill_ray.recipe.loading import parse_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards.selection import SelectionKnobs


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


def test_student_with_a_learning_rate_of_its_own_goes_on_from_the_only_one_before_it():
    recipe = recipe_of(
        {"kind": "dpo", "start": "sft", "learning_rate": 1e-6},
        {"kind": "jsd", "start": "dpo", "teacher": "sft"},
        optimizer={"learning_rate": 1e-3},
    )
    sft, dpo, jsd = students(recipe)
    assert [one.learning_rates for one in (sft, dpo, jsd)] == [[1e-3], [1e-6], [1e-3]]
    (own,) = dpo.trainings
    assert own.label == "dpo-lr_1e-06" and own.of(sft).label == "sft-lr_0.001"
    (last,) = jsd.trainings
    assert last.of(dpo).label == "dpo-lr_1e-06"


def test_one_of_several_learning_rates_goes_on_from_the_same_and_another_is_refused():
    rates = {"learning_rates": [1e-3, 1e-4], "seeds": [0]}

    def parsed(**own: float) -> Recipe:
        compared = [{"kind": "dpo", "start": "sft", **own}]
        return recipe_of(compare={"students": compared, **rates}, task={"num_validation": 4})

    sft, dpo = students(parsed(learning_rate=1e-4))
    assert [training.of(sft).label for training in dpo.trainings] == ["sft-lr_0.0001"]
    with pytest.raises(UserError, match=r"0\.learning_rate: sft .*start\) is trained at 0.001"):
        parsed(learning_rate=1e-6)


def test_student_of_a_writer_reads_no_groups_of_teachers_and_is_set_against_who_does():
    half = {"problems": [0.5, 1], "kind": "sft"}
    recipe = recipe_of(
        {"name": "weak", "kind": "sft", "init": {"layers": [0, 2]}, "problems": [0, 0.5]},
        {"name": "ceiling", **half},
        {"name": "strong", "writer": "weak", "labels": "vote", **half},
        {"name": "of_all", "kind": "sft", "writer": "weak"},
        {"name": "as_is", "kind": "sft", "writer": "weak", "labels": "none", "on": "all"},
        {"name": "again", "kind": "sft", "writer": "strong", "problems": [0, 0.5]},
    )
    found = {one.name: one for one in students(recipe)}
    assert found["weak"].model == "m#layers=0,2" and found["weak"].reads_groups
    assert found["weak"].model_field == "compare.students.0.model"
    assert not found["strong"].reads_groups and found["strong"].is_given_groups
    assert selection_of(recipe, found["strong"]).problems == (0.5, 1)
    judging = judging_by_writer(recipe, found["strong"])
    assert (judging.reward.reference, judging.selection.problems) == ("vote", (0.5, 1))
    assert judging_by_writer(recipe, found["of_all"]).reward == recipe.reward
    strict = {"max_correct": 2, "drop_zero_variance": True, "min_votes": 4, "group_size": 3}
    picky = recipe.model_copy(update={"selection": SelectionKnobs.model_validate(strict)})
    kept = judging_by_writer(picky, found["as_is"]).selection
    assert (kept.min_correct, kept.max_correct, kept.min_size) == (0, None, 1)
    assert (kept.drop_zero_variance, kept.min_votes, kept.min_agreement) == (False, 0, 0)
    assert kept.group_size == 3, "fewer of all, whatever they are"
    against = {"strong": "ceiling", "of_all": "sft", "as_is": "sft"}
    assert gaps(recipe) == [(name, "weak", other) for name, other in against.items()]
    assert parse_recipe(recipe.model_dump(mode="json", by_alias=True), "dump") == recipe


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
        ([{"kind": "sft", "name": "a", "writer": "b"}], "0.writer: b is no student before it"),
        (
            [{"kind": "jsd", "writer": "sft", "rounds": {"count": 1}}],
            "compare.students.0.writer: in rounds a student writes of all problems itself",
        ),
        (
            [{"kind": "jsd", "problems": [0, 0.5], "rounds": {"count": 1}}],
            "compare.students.0.problems: in rounds a student writes of all problems itself",
        ),
        (
            [{"kind": "jsd", "labels": "vote"}],
            "compare.students.0.labels: it says how what `writer` wrote is judged",
        ),
        (
            [{"kind": "jsd", "writer": "sft", "labels": "vote", "group_size": 2}],
            "selection.min_votes: 3 votes cannot be had from groups of 2",
        ),
        (
            [{"kind": "sft", "name": "a", "writer": "sft", "labels": "none"}],
            "compare.students.0.labels: none says of no text whether it is right, which sft learns",
        ),
        (
            [{"kind": "advdistill", "writer": "sft", "labels": "none"}],
            "compare.students.0.labels: none says of no text whether it is right",
        ),
        (
            [{"kind": "jsd", "problems": [0.5, 0.5]}],
            "compare.students.0.problems: expected .from, to. with 0 <= from < to <= 1",
        ),
    ],
)
def test_chain_that_cannot_be_is_said_with_its_field(compared, said):
    with pytest.raises(UserError, match=re.compile(said)):
        recipe_of(*compared)


def test_writer_that_draws_until_enough_are_right_judges_by_the_tasks_answers():
    for labels in ("vote", "none"):
        one = {"kind": "sft", "on": "all", "name": "a", "writer": "sft", "labels": labels}
        with pytest.raises(UserError, match=f"sampling.max_n: .*students.0.labels: {labels}"):
            recipe_of(one, sampling={"max_n": 16})


def test_chain_goes_on_from_the_last_epoch_which_must_be_exported():
    epochs = {"compare": {"epochs": [1]}, "task": {"num_validation": 4}}
    for field, kind in (("start", "dpo"), ("teacher", "jsd"), ("writer", "jsd")):
        compared = {**epochs["compare"], "students": [{"kind": kind, field: "sft"}]}
        said = r"compare.epochs: \[1\] exports no student of the last epoch, 2, which "
        with pytest.raises(UserError, match=f"{said}compare.students.0.{field} goes on from"):
            recipe_of(compare=compared, task=epochs["task"])


def test_ensemble_names_students_of_the_recipe_each_once():
    told = []
    for of in (["sft", "third"], ["sft", "sft"]):
        with pytest.raises(UserError) as error:
            recipe_of(compare={"ensembles": [{"name": "all", "of": of}]})
        told.append(str(error.value))
    assert "compare.ensembles.0.of: third is no student; those are sft" in told[0]
    assert "names a student twice" in told[1]
    compare = {"ensembles": [{"name": "base", "of": ["sft", "sft-seed_1"]}], "seeds": [0, 1]}
    with pytest.raises(UserError, match="the name base may appear once"):
        recipe_of(compare=compare)
