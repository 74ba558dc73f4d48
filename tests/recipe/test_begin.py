"""`fastdistill init` and `validate`: what is written reads back, what is wrong is one line."""

from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from support.jobs import tiny_recipe, write_recipe
from support.models import make_tiny_model

from fastdistill_ray import cli
from fastdistill_ray.recipe.begin import SHOWN, begin
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.recipe.tree import Recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("model") / "tiny")
    make_tiny_model(folder)
    return folder


WAYS = [
    {},
    {"path": "/somewhere/mine.jsonl"},
    {"api": "https://host/v1"},
    {"path": "/somewhere/задачи.jsonl"},
    {"task": "word_problems"},
    {"gpus": 4},
    {"api": "https://host/v1", "gpus": 2},
]


@pytest.mark.parametrize("given", WAYS, ids=str)
def test_written_recipe_is_the_one_that_was_checked_and_explains_each_field(given, tmp_path):
    task = "jsonl" if "path" in given else "gsm8k"
    names = {"task": task, "teacher": "org/teacher", "student": "org/student"}
    text, recipe = begin(**names | given)
    (tmp_path / "begun.yaml").write_text(text)
    assert load_recipe(str(tmp_path / "begun.yaml"), []) == recipe
    lines = text.splitlines()
    for above, line in pairwise(lines[1:]):
        is_field = ": " in line and not line.lstrip().startswith("#")
        assert not is_field or above.lstrip().startswith("#"), line
    pools = recipe.pools
    assert pools.student.workers == max(given.get("gpus", 0), 1)
    assert pools.teacher.gpus == (1 if given.get("gpus") and "api" not in given else 0)


def test_shown_fields_are_fields_of_a_recipe():
    for path in SHOWN:
        model: type = Recipe
        if path.startswith("teacher.engine.") or path.startswith("objective."):
            continue  # of one kind each; the test above reads them back
        for part in path.split(".")[:-1]:
            model = model.model_fields[part].annotation
        assert path.split(".")[-1] in model.model_fields, path


def test_init_checks_models_and_task_then_writes_the_file(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--task=word_problems", f"--teacher={model}", f"--student={model}"]
    assert cli.main(["init", "mine.yaml", *arguments]) == 2, "a prompt has no room in it"
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert not Path("mine.yaml").exists()


def test_init_writes_over_no_file(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("mine")
    given = ["--task=gsm8k", "--teacher=a/b", "--student=c/d"]
    assert cli.main(["init", str(tmp_path / "mine.yaml"), *given]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == "mine"


def test_validate_says_of_each_thing_that_it_is_well(model, tmp_path, capsys):
    file = write_recipe(tmp_path, tiny_recipe(model))
    assert cli.main(["validate", str(file)]) == 0
    begun = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert begun == ["models", "rewards", "problems", "students", "memory"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("--student.model=/no/such/folder", "/no/such/folder"),
        ("--reward.functions.mine=nowhere.py:f", "nowhere.py"),
        ("--training.max_seq_len=100000", "training.max_seq_len"),
        ("--sampling.max_new_tokens=1020", "max_model_len"),
    ],
)
def test_validate_ends_at_what_is_wrong(model, change, line, tmp_path, capsys):
    file = write_recipe(tmp_path, tiny_recipe(model))
    assert cli.main(["validate", str(file), change]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1


def test_env_says_what_this_machine_has_and_no_secret(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_mine")
    assert cli.main(["env"]) == 0
    said = capsys.readouterr().out
    facts = dict(line.split(None, 1) for line in said.splitlines())
    assert facts["HF_TOKEN"] == "set" and "hf_secret" not in said
    assert {"python", "torch", "cpus", "memory", "gpus"} <= set(facts)


def test_begun_recipe_is_yaml_without_what_says_nothing():
    tree = yaml.safe_load(begin("gsm8k", "a/b", "c/d")[0])
    assert "path" not in tree["task"] and "kind" not in tree["teacher"]["engine"]
