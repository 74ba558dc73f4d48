"""A run's folder: complete stages are skipped, other recipes refused, counts must add up."""

import json

import pytest

from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.run.folder import RunDir
from fastdistill_ray.run_files import StageResult

DEMO = "jobs/recipes/demo.yaml"


def test_stage_complete_is_skipped_and_failed_is_run_again(tmp_path):
    run = RunDir(str(tmp_path / "run"), load_recipe(DEMO, []))
    calls = []

    def work(number: int, *, out) -> StageResult:
        calls.append(number)
        if number == 1:
            raise OSError("disk")
        (out / "rows").write_text("x")
        return StageResult(5, 3, {"too_long": 2})

    with pytest.raises(OSError, match="disk"):
        run.stage("a/b", work, 1)
    assert not run.is_complete("a/b")
    run.stage("a/b", work, 2)
    run.stage("a/b", work, 3)
    assert calls == [1, 2]
    manifest = json.loads((run.folder("a/b") / "manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_out"]) == (5, 3)
    assert run.manifests() == [manifest]


def test_stage_rows_that_do_not_add_up_are_refused(tmp_path):
    run = RunDir(str(tmp_path / "run"), load_recipe(DEMO, []))
    with pytest.raises(AssertionError):
        run.stage("a", lambda *, out: StageResult(5, 3))
    assert not run.is_complete("a")


def test_run_dir_of_another_recipe_is_refused_naming_the_field(tmp_path):
    RunDir(str(tmp_path / "run"), load_recipe(DEMO, []))
    RunDir(str(tmp_path / "run"), load_recipe(DEMO, ["--pools.teacher.workers=3"]))
    with pytest.raises(ValueError, match=r"objective\.tau was 0\.5, now 0\.7"):
        RunDir(str(tmp_path / "run"), load_recipe(DEMO, ["--objective.tau=0.7"]))


def test_run_dir_with_foreign_files_or_a_url_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds no recipe\.yaml"):
        RunDir(str(tmp_path), load_recipe(DEMO, []))
    with pytest.raises(ValueError, match="mount"):
        RunDir("s3://bucket/run", load_recipe(DEMO, []))
