"""The jobs from Python: what is refused, what a run folder gives. The notebook runs the jobs."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from support.jobs import tiny_recipe, write_recipe
from support.run_folder import make_run

import fastdistill_ray as fd
from fastdistill_ray.api import _stream
from fastdistill_ray.recipe.loading import dump_recipe
from fastdistill_ray.storage.place import Place


def test_load_recipe_takes_values_by_field_and_names_the_one_that_is_wrong():
    recipe = fd.load_recipe("demo", {"optimizer.learning_rate": 1e-5, "compare.students": []})
    assert recipe.optimizer.learning_rate == 1e-5 and recipe.compare.students == []
    with pytest.raises(fd.UserError, match=r"objective\.taw: unknown key"):
        fd.load_recipe("demo", {"objective.taw": 1})
    with pytest.raises(fd.UserError, match="name is not a section"):
        fd.load_recipe("demo", {"name.of": 1})


def test_plan_is_the_one_of_the_command_line(tmp_path):
    plan = fd.plan("demo", tmp_path / "run", changes={"task.num_train": 40})
    assert "generate   40 groups of 8 completions" in plan and f"in {tmp_path / 'run'}" in plan
    assert not (tmp_path / "run").exists()


def test_place_in_a_bucket_may_be_handed_on(bucket):
    """As `run.path` of a run there is."""
    run = Place(bucket) / "run"
    assert f"in {run}" in fd.plan("demo", run)
    recipe = fd.load_recipe("demo")
    (run / "recipe.yaml").put(dump_recipe(recipe))
    assert fd.load_recipe(run / "recipe.yaml") == recipe


def test_a_job_that_cannot_run_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "other").write_text("a file")
    with pytest.raises(fd.UserError, match="a file; name a folder"):
        fd.distill("demo", tmp_path / "other")
    with pytest.raises(fd.UserError, match="--env NOT_SET"):
        fd.distill("demo", tmp_path / "run", env=["NOT_SET"])
    with pytest.raises(fd.UserError, match="holds no groups of this recipe"):
        fd.train("demo", tmp_path / "run")
    with pytest.raises(fd.UserError, match="run it by its verb"):
        fd.distill("box/mcp_box", tmp_path / "run")
    recipe = fd.load_recipe("demo")
    with pytest.raises(fd.UserError, match="changes: of a recipe that is loaded"):
        fd.distill(recipe, tmp_path / "run", changes={"name": "x"})


def test_run_gives_results_students_groups_and_summary(tmp_path):
    folder = Path(make_run(str(tmp_path / "run")))
    (folder / "students" / "sft").mkdir(parents=True)
    run = fd.Run(folder)
    assert run.results == json.loads((folder / "results.json").read_text())
    assert run.students == {"sft": str(folder / "students" / "sft")}
    kept = [row for table in run.groups() for row in table.to_pylist()]
    assert kept and {"problem_id", "completions", "dropped"} <= set(kept[0])
    assert run.summary().startswith("accuracy, 95 % interval")
    with pytest.raises(fd.UserError, match="no run folder"):
        fd.Run(tmp_path)


def test_log_of_the_job_is_printed_and_its_error_kept(capsys):
    said = "print('one', flush=True); print('error: field: wrong'); raise SystemExit(2)"
    assert _stream([sys.executable, "-c", said]) == (2, "field: wrong")
    assert capsys.readouterr().out == "one\nerror: field: wrong\n"


def test_recipe_file_of_a_run_is_taken_too(tmp_path):
    file = write_recipe(tmp_path, tiny_recipe("org/model"))
    assert fd.load_recipe(file).student.model == "org/model"
    assert yaml.safe_load(file.read_text())["name"] == fd.load_recipe(str(file)).name
