"""Texts that are made of other texts: a writer's, rewritten by its student, and new problems."""

import json

import pytest
from support.jobs import lines_of, run_job, stage_folder, tiny_recipe, write_recipe
from support.models import make_tiny_model

from fastdistill_ray.groups.store import Store
from fastdistill_ray.tasks.new_problems import SYSTEM
from fastdistill_ray.tasks.problem_file import ProblemFile

pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_student_rewrites_what_its_writer_is_not_sure_of_and_votes_with_others(tmp_path, head):
    model = make_tiny_model(str(tmp_path / "model"))
    scripted = {"kind": "scripted", "max_model_len": 1024, "extra": {"wrong": ["1000001"]}}
    recipe = tiny_recipe(
        model,
        objective={"kind": "sft"},
        sampling={"n": 6},
        training={"epochs": 1},
        evaluation={"engine": scripted},
        compare={
            "students": [
                {"kind": "sft", "name": "alice", "on": "all", "writer": "sft", "labels": "none"}
                | {"rewrite": {}},
                {"kind": "born_again", "teacher": "sft", "knowledge": "permuted"},
            ],
            "ensembles": [{"name": "all", "of": ["born_again", "alice", "sft"]}],
            "baselines": [],
        },
    )
    run = tmp_path / "run"
    file = write_recipe(tmp_path, recipe)
    run_job("distill", file, run, head)

    own = stage_folder(run, "rewritten_groups")
    groups = {row["problem_id"]: row for table in Store(own).tables() for row in table.to_pylist()}
    (written,) = (run / "stages/student_groups").glob("*")
    writers = {
        row["problem_id"]: row for table in Store(written).tables() for row in table.to_pylist()
    }
    facts = json.loads((own / "manifest.json").read_text())["facts"]
    assert facts["original"] + facts["rewritten"] == len(groups)
    assert facts["rewritten"] > 0, "several answers of a problem differ"
    asked = {
        row["problem_id"]: row
        for table in Store(own / "rewritten_answers").tables()
        for row in table.to_pylist()
    }
    for key, group in groups.items():
        assert group["question"] == writers[key]["question"]
        (text,) = (one["text"] for one in group["completions"])
        if key in asked:
            assert text == asked[key]["completions"][0]["text"]
            assert "1000001 " in asked[key]["question"]
            assert group["question"] in asked[key]["question"]
        else:
            assert text in [one["text"] for one in writers[key]["completions"]]
    trained = [
        key
        for line in lines_of(stage_folder(run, "train", "alice") / "steps.jsonl")
        for key in line["group_ids"]
    ]
    assert sorted(trained) == sorted(groups)
    stores = [written, own / "first_answers", own / "rewritten_answers"]
    tokens = sum(commit.num_tokens for store in stores for commit in Store(store).commits())
    trials = json.loads((run / "choose.json").read_text())["trials"]
    written_tokens = {one["student"]: one["written_tokens"] for one in trials}
    assert written_tokens == {"sft": 0, "alice": tokens, "born_again": 0}
    report = (run / "report.md").read_text()
    assert "Rewritten texts" in report and "Vote of born-again, alice, SFT" in report
    results = json.loads((run / "results.json").read_text())
    asked = {row["model"]: row["num_problems"] for row in results["rows"] if row["split"] == "test"}
    assert asked["all"] == asked["alice"] == 6
    costs = {row["model"]: row["trained_tokens"] for row in results["costs"]}
    assert costs["all"] == costs["alice"] + costs["sft"] + costs["born_again"]


def test_problems_that_the_teacher_makes_are_asked_voted_on_and_trained_beside_the_others(
    tmp_path, head
):
    model = make_tiny_model(str(tmp_path / "model"))
    engine = {"kind": "scripted", "max_model_len": 1024}
    extra = {"varies": SYSTEM[:30], "share_correct": 0.2, "wrong": ["4", "4", "4", "9"]}
    recipe = tiny_recipe(
        model,
        task={"num_train": 8},
        teacher={"model": model, "engine": engine | {"extra": extra}},
        new_problems={"n": 2},
        reward={"reference": "vote"},
        sampling={"n": 8},
        objective={"kind": "sft"},
        training={"epochs": 1},
        compare={"baselines": []},
    )
    run = tmp_path / "run"
    file = write_recipe(tmp_path, recipe)
    run_job("distill", file, run, head)

    out = stage_folder(run, "new_problems")
    problems = list(ProblemFile(str(out / "train.parquet")))
    made = [one for one in problems if "+" in one.problem_id]
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    assert (
        len(problems) == 8 + len(made) and 0 < len(made) == facts["new"] <= facts["written"] == 16
    )
    own = {one.problem_id: one for one in problems if one not in made}
    for one in made:
        source = own[one.problem_id.partition("+")[0]]
        assert one.reference == "" and one.kind == source.kind
        assert words(one.question) == words(source.question) != one.question
    store = Store(stage_folder(run, "groups"))
    groups = [row for table in store.tables() for row in table.to_pylist()]
    assert {row["problem_id"] for row in groups} == {one.problem_id for one in problems}
    kept = [row for row in groups if not row["dropped"]]
    assert any("+" in row["problem_id"] for row in kept)
    assert all(row["vote"]["agreement"] >= 0.6 for row in kept)
    trained = [
        key
        for line in lines_of(stage_folder(run, "train") / "steps.jsonl")
        for key in line["group_ids"]
    ]
    assert sorted(trained) == sorted(row["problem_id"] for row in kept)
    assert "New problems" in (run / "report.md").read_text()
    manifests = {path: path.stat().st_mtime_ns for path in run.glob("stages/*/*/manifest.json")}
    run_job("distill", file, run, head)
    assert manifests == {path: path.stat().st_mtime_ns for path in manifests}


def words(question: str) -> str:
    return "".join(character for character in question if not character.isdigit())
