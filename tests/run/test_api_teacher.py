"""A teacher behind an endpoint and no other: asked for groups, evaluated, its key checked first."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.head import KEY, KEY_VARIABLE
from support.jobs import run_job, stage_folder, tiny_recipe, write_recipe
from support.models import make_tiny_model
from support.servers import PROMPT_TOKENS, ChatServer

from fastdistill_ray import cli
from fastdistill_ray.recipe.loading import parse_recipe
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.pipeline import prepare_problems


def api_recipe(model: str, url: str) -> dict:
    engine = {"kind": "endpoint", "url": url, "api_key_env": KEY_VARIABLE}
    teacher = {"model": "served", "engine": {**engine, "price_completion": 1000.0}}
    recipe = tiny_recipe(model, selection={"min_correct": 0})
    return recipe | {"teacher": teacher}


@pytest.mark.ray
@pytest.mark.long
def test_api_teacher_is_evaluated_through_its_endpoint(tmp_path, head):
    model, run = make_tiny_model(str(tmp_path / "model")), tmp_path / "run"
    recipe = api_recipe(model, "http://localhost:1/v1")
    problems = prepare_problems(RunFolder(tmp_path / "other", parse_recipe(recipe, "r")))
    refused = next(iter(problems["test"]))
    with ChatServer([""], refused=[refused.question]) as server:
        recipe["teacher"]["engine"]["url"] = server.url
        run_job("distill", write_recipe(tmp_path, recipe), run, head)
    results = json.loads((run / "results.json").read_text())
    assert {row["model"] for row in results["rows"]} == {"base", "teacher", "advdistill"}
    answers = stage_folder(run, "answers", "teacher")
    rows = pq.read_table(answers / "answers.parquet").to_pylist()
    assert len(rows) == 11 and refused.problem_id not in {row["problem_id"] for row in rows}
    assert {row["prompt_num_tokens"] for row in rows} == {PROMPT_TOKENS}
    manifest = json.loads((answers / "manifest.json").read_text())
    assert (manifest["rows_out"], manifest["set_aside"]) == (11, {"refused": 1})
    assert manifest["facts"]["teacher_paid"] > 0
    asked = [entry["body"] for entry in server.requests if entry["body"]["temperature"] == 0]
    questions = [body["messages"][-1]["content"] for body in asked]
    assert len(set(questions)) == 12, "greedy, as the others"
    # Refused before anything was answered it is asked once more.
    assert len(questions) - questions.count(refused.question) == 11
    assert not [file for file in run.rglob("*") if file.is_file() and KEY in _text(file)]


def _text(file: Path) -> str:
    return file.read_bytes().decode("latin-1")


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("", f"teacher.engine.api_key_env: {KEY_VARIABLE} is not set"),
        ("sk-1", "teacher.engine.url: nothing answers at http://127.0.0.1:9/v1"),
    ],
)
def test_api_teacher_that_cannot_be_asked_is_told_before_a_head_starts(
    key, line, tmp_path, monkeypatch, capsys
):
    """No head is joined: those of others have another TMPDIR."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(KEY_VARIABLE, key)
    recipe = write_recipe(tmp_path, api_recipe("m", "http://127.0.0.1:9/v1"))
    assert cli.main(["distill", str(recipe), "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
