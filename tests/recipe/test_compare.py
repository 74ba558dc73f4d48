"""Who is trained and who is only asked: names, models, group sizes."""

from pathlib import Path

import pytest
import yaml
from support.jobs import tiny_recipe
from support.models import make_tiny_model

from fastdistill_ray.recipe.derived import is_writer, scorer_of, students
from fastdistill_ray.recipe.loading import dump_recipe, load_recipe, parse_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.plan import describe


def recipe_with(entries: list, baselines: list | None = None, **changes: dict) -> Recipe:
    compare = {"students": entries, "baselines": baselines or ["base"]}
    return parse_recipe(tiny_recipe("org/small", compare=compare, **changes), "x.yaml")


def test_students_are_named_by_kind_or_name_and_take_what_is_not_said_from_the_recipe():
    entries = [
        {"kind": "sft"},
        {"kind": "sft", "name": "sft_3b", "model": "org/large"},
        {"kind": "advdistill", "name": "three", "group_size": 3, "tau": 0.7},
        {"kind": "advdistill", "name": "four", "group_size": 4},
    ]
    recipe = recipe_with(entries)
    found = [(s.name, s.model, s.group_size, s.objective.kind) for s in students(recipe)]
    assert found == [
        ("advdistill", "org/small", None, "advdistill"),
        ("sft", "org/small", None, "sft"),
        ("sft_3b", "org/large", None, "sft"),
        ("three", "org/small", 3, "advdistill"),
        ("four", "org/small", None, "advdistill"),  # groups have four completions anyway
    ]
    assert students(recipe)[3].objective.tau == 0.7
    assert students(recipe)[2].learning_rates == [0.001]
    assert students(recipe)[2].section == "compare.students.1"
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe)), "dump") == recipe
    assert yaml.safe_load(dump_recipe(recipe))["compare"]["students"][1]["kind"] == "sft"


def test_student_of_as_many_completions_as_are_drawn_first_has_its_own_selection():
    """Where more are drawn for some problems, groups are larger."""
    sampling = {"n": 4, "max_n": 16, "max_new_tokens": 8}
    entries = [{"kind": "sft", "group_size": 4}, {"kind": "sft", "name": "all", "group_size": 16}]
    _, four, everything = students(recipe_with(entries, sampling=sampling))
    assert (four.group_size, four.has_own_selection) == (4, True)
    assert not everything.has_own_selection


@pytest.mark.parametrize(
    ("entries", "baselines", "message"),
    [
        ([{"kind": "advdistill"}], [], "the name advdistill may appear once"),
        ([{"kind": "sft"}, {"kind": "sft"}], [], "the name sft may appear once"),
        ([{"kind": "sft", "name": "base"}], ["base"], "the name base may appear once"),
        ([], [{"name": "teacher", "model": "m"}], "the name teacher may appear once"),
        ([{"kind": "sft", "taw": 1}], [], "compare.students.0.objective.taw: unknown key"),
        ([{"kind": "magic"}], [], "compare.students.0.objective"),
        ([{"name": "x"}], [], "compare.students.0.objective"),
        ([{"kind": "advdistill", "name": "a", "group_size": 1}], [], "0.group_size: advdistill"),
        ([{"kind": "sft", "group_size": 9}], [], "group_size: 9 completions cannot be had"),
        ([{"kind": "sft", "group_size": 1}], [], "group_size: 1 is below selection.min_size"),
        ([], [{"name": "a b", "model": "m"}], "compare.baselines.0.name: "),
        ([], ["bass"], "compare.baselines.0: Input should be 'base', 'base_plain' or 'teacher'"),
        ([], [{"name": "few"}], "compare.baselines.0.model: required, not given"),
        ([], [{"name": "a", "model": "m", "promt": {}}], "baselines.0.promt: unknown key"),
    ],
)
def test_wrong_lineup_is_one_line(entries, baselines, message):
    with pytest.raises(ValueError, match=r"^recipe x\.yaml: ") as error:
        recipe_with(entries, baselines)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_plan_names_every_training_and_model():
    recipe = load_recipe("jobs/recipes/open_s1.yaml", [])
    plan = describe(recipe)
    assert plan.count("\ntrain      ") == 4
    assert "sft_3b from Qwen/Qwen2.5-3B-Instruct at" in plan
    assert "advdistill_3 from Qwen/Qwen2.5-1.5B-Instruct on 3 completions each at" in plan
    assert "18062 train, 0 validation, 553 test, 850 ood of task open_s1 and open_rs" in plan
    assert "evaluate   9 models on 1403 problems" in plan


def test_plan_says_how_much_what_is_stored_of_the_texts_may_take(tmp_path: Path):
    """3 problems of 4 completions of 128 tokens; hidden states are 64 wide, in 8 bits and a scale
    of 4 bytes."""
    changes = {"scorer": {"model": make_tiny_model(str(tmp_path))}, "task": {"num_train": 3}}
    for objective, size in (
        ({"kind": "topk_kl", "k": 20}, 164),
        ({"kind": "jsd", "states": "int8"}, 68),
    ):
        recipe = recipe_with([], objective=objective, **changes)
        (line,) = [one for one in describe(recipe).splitlines() if one.startswith("score ")]
        assert f", at most {3 * 4 * 128 * size / 2**20:.1f} MiB stored  [" in line
    elsewhere = recipe_with([], objective=objective, **changes | {"scorer": {"model": "no/where"}})
    assert "stored  [" not in describe(elsewhere)


@pytest.mark.parametrize(
    ("changes", "is_own"),
    [
        ({}, True),
        ({"sampling": {"logprobs": 0}}, False),
        ({"scorer": {"model": "other"}}, False),
        ({"scorer": {"model": "t", "prompt": {"system": "Other."}}}, False),
        ({"scorer": {"model": "t"}}, True),
        ({"teacher": {"model": "t", "engine": {"kind": "scripted"}}}, False),
    ],
)
def test_scorer_wrote_the_texts_where_it_is_asked_as_the_teacher_was(changes: dict, is_own: bool):
    teacher = {"teacher": {"model": "t", "engine": {"kind": "vllm"}}, "sampling": {"logprobs": 1}}
    kind = {"kind": "topk_kl"} if "scorer" in changes else {"kind": "sft"}
    recipe = recipe_with([], objective=kind, **teacher | changes)
    scorer = scorer_of(recipe)
    assert scorer and is_writer(recipe, students(recipe)[0], scorer) == is_own


def test_every_student_is_trained_once_for_each_rate_and_seed():
    compare = {"students": [{"kind": "sft"}], "learning_rates": [1e-3, 2e-3], "seeds": [4, 0]}
    task = {"name": "word_problems", "num_validation": 4}
    recipe = parse_recipe(tiny_recipe("org/small", compare=compare, task=task), "x.yaml")
    labels = [training.label for student in students(recipe) for training in student.trainings]
    assert labels == [
        f"{name}-lr_{rate}-seed_{seed}"
        for name in ("advdistill", "sft")
        for rate in ("0.001", "0.002")
        for seed in (4, 0)
    ]
    plan = describe(recipe)
    assert plan.count("\ntrain      ") == 8
    assert "sft from org/small at learning rate 0.002, seed 4: " in plan
    assert "validate   8 trials on 4 problems" in plan
    assert "evaluate   6 models" in plan  # base and teacher, two students of two seeds
    alone = parse_recipe(tiny_recipe("org/small", training={"seed": 5}), "x.yaml")
    assert [(one.seed, one.label) for one in students(alone)[0].trainings] == [
        (5, "advdistill-lr_0.001")
    ]


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ({"seeds": [1, 2, 1]}, "compare.seeds: [1, 2, 1] names a trial twice; keep one"),
        ({"seeds": [-1]}, "compare.seeds.0"),
        ({"seeds": [1, 2]}, "training.overlap: true trains once; set compare.seeds: []"),
        (
            {"seeds": [1, 2], "students": [{"kind": "sft", "name": "advdistill-seed_2"}]},
            "the name advdistill-seed_2 may appear once",
        ),
    ],
)
def test_seeds_that_cannot_be_are_refused_in_one_line(compare, message):
    with pytest.raises(ValueError, match=r"^recipe x\.yaml: ") as error:
        training = {"overlap": True}
        parse_recipe(tiny_recipe("org/small", compare=compare, training=training), "x.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gsm8k", "open_s1", "mmlu_pro"])
def test_recipe_of_the_paper_has_its_rows(name):
    recipe = load_recipe(f"jobs/recipes/{name}.yaml", [])
    assert [student.name for student in students(recipe)] == [
        *("advdistill", "sft", "sft_3b", "advdistill_3")
    ]
    few_shot = {one.name: one for one in recipe.compare.baselines if not isinstance(one, str)}
    for row, model in (("base_few_shot", recipe.student), ("teacher_few_shot", recipe.teacher)):
        assert few_shot[row].model == model.model
        assert few_shot[row].prompt.system == model.prompt.system
        for shot in few_shot[row].prompt.shots:
            assert shot.answer.startswith("<think>")
            assert "</think>\n<answer>\\boxed{" in shot.answer
            assert shot.answer.endswith("}</answer>")
    assert recipe.pools.gpu_hour_price > 0
