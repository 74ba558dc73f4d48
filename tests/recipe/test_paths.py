"""Names of files in a recipe, from where the user stands."""

from pathlib import Path

import pytest
from support.jobs import tiny_recipe

from fastdistill_ray.recipe.loading import parse_recipe
from fastdistill_ray.recipe.paths import with_absolute_paths


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("small", "large", "few", "home/mine"):
        Path(name).mkdir(parents=True)
    for name in ("problems.jsonl", "ood.jsonl"):
        Path(name).touch()
    return tmp_path


def test_with_absolute_paths_reaches_every_model_and_file_that_is_there(here):
    recipe = tiny_recipe(
        "small",
        task={"name": "jsonl", "path": "problems.jsonl", "ood": {"name": "a", "path": "ood.jsonl"}},
        scorer={"model": "large"},
        teachers=[{"model": "~/mine", "engine": {"kind": "scripted"}}],
        compare={
            "students": [{"kind": "sft", "model": "large#layers=0,1"}],
            "baselines": [{"name": "few_shot", "model": "./few"}, "base"],
        },
    )
    fixed = with_absolute_paths(parse_recipe(recipe, "r"))
    assert fixed.task.path == str(here / "problems.jsonl")
    assert fixed.task.ood and fixed.task.ood.path == str(here / "ood.jsonl")
    assert fixed.teacher.model == fixed.student.model == str(here / "small")
    assert fixed.scorer and fixed.scorer.model == str(here / "large")
    assert fixed.teachers[0].model == str(here / "home/mine")
    assert fixed.compare.students[0].model == f"{here / 'large'}#layers=0,1"
    few_shot, base = fixed.compare.baselines
    assert (getattr(few_shot, "model", few_shot), base) == (str(here / "few"), "base")


def test_with_absolute_paths_leaves_what_is_elsewhere_and_names_of_endpoints(here):
    recipe = tiny_recipe("s3://bucket/model", student={"model": "org/name"})
    recipe["teachers"] = [
        {"model": "small", "engine": {"kind": "endpoint", "url": "http://localhost:1/v1"}}
    ]
    given = parse_recipe(recipe, "r")
    assert with_absolute_paths(given) == given
