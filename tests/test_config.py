"""Recipes: every shipped one parses, wrong input is one line that names the key."""

from pathlib import Path

import pytest
import yaml

from fastdistill_ray.config import dump_recipe, load_recipe, parse_recipe

RECIPES = sorted(Path("jobs/recipes").glob("*.yaml"))
DEMO = "jobs/recipes/demo.yaml"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_shipped_parses_and_survives_a_round_trip(path):
    recipe = load_recipe(str(path), [])
    assert recipe.name == path.stem
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe)), "dump") == recipe


def test_recipe_gsm8k_is_the_papers_run():
    recipe = load_recipe("jobs/recipes/gsm8k.yaml", [])
    assert recipe.sampling.model_dump(exclude={"seed"}) == {
        "n": 8,
        "temperature": 0.9,
        "top_p": 1.0,
        "max_new_tokens": 2048,
    }
    assert (recipe.teacher.model, recipe.student.model) == (
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen/Qwen2.5-1.5B-Instruct",
    )
    assert (recipe.optimizer.learning_rate, recipe.optimizer.weight_decay) == (5e-6, 0.01)
    assert (recipe.optimizer.max_grad_norm, recipe.optimizer.warmup_ratio) == (0.5, 0.05)
    assert (recipe.training.epochs, recipe.training.groups_per_step) == (4, 16)
    assert (recipe.objective.tau, recipe.objective.lambda_) == (0.5, 0.5)
    assert recipe.training.overlap
    assert recipe.reward.weights == {"cosine": 2.0, "format": 1.0}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--trainin.epochs=3", "trainin: unknown key, did you mean training?"),
        ("--sampling.temprature=1", "sampling.temprature: unknown key, did you mean temperature?"),
        ("--objective.taw=1", "objective.taw: unknown key"),
        ("--sampling.n=eight", "sampling.n: Input should be a valid integer"),
        ("--sampling.n=1", "sampling.n: advdistill compares completions, n must be 2 or more"),
        ("--sampling.temperature=0", "sampling.temperature: 0 makes the n completions"),
        ("--selection.min_correct=9", "selection.min_correct: 9 of 8 cannot be"),
        ("--selection.group_size=1", "n must be 2 or more, is 1"),
        ("--sampling.max_new_tokens=5000", "sampling.max_new_tokens: 5000 leaves no room"),
        ("--training.mask_prompt=false", "needs training.shared_prompt: false"),
        ("--compare.epochs=[7]", "compare.epochs: [7] not within training.epochs"),
        ("--task.num_validation=0", "task.num_validation: choosing by compare"),
        ("--reward.weights={cosine: 1, beauty: 2}", "no score is named ['beauty']"),
        ("--teacher.engine.tensor_parallel_size=4", "pools.teacher.gpus"),
        ("--objective.p_max=1.5", "objective.p_max"),
        ("--objective.kind=magic", "objective"),
        ("--training.overlap=true", "compare.learning_rates"),
        ("--name=a b", "name"),
        ("sampling", "expected --section.field=value"),
    ],
)
def test_recipe_wrong_override_is_one_line_naming_the_key(override, message):
    with pytest.raises(ValueError, match=r"recipe|override") as error:
        load_recipe(DEMO, [override])
    text = str(error.value)
    assert message in text
    assert "\n" not in text


def test_recipe_unknown_keys_are_told_before_missing_ones():
    with pytest.raises(ValueError, match="techer: unknown key, did you mean teacher"):
        parse_recipe({"name": "x", "techer": {}}, "x.yaml")
    with pytest.raises(ValueError, match="task: required, not given"):
        parse_recipe({"name": "x"}, "x.yaml")


def test_recipe_file_missing_or_not_yaml_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_recipe(str(tmp_path / "none.yaml"), [])
    (tmp_path / "bad.yaml").write_text("a: [1\nb: }")
    with pytest.raises(ValueError, match="not YAML") as error:
        load_recipe(str(tmp_path / "bad.yaml"), [])
    assert "\n" not in str(error.value)
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="expected sections"):
        load_recipe(str(tmp_path / "list.yaml"), [])
