"""What each compared model is still to be asked."""

import numpy as np
from support.models import make_tiny_model
from support.requests import made_up_problems

from fastdistill_ray.evaluation.answers import missing_requests
from fastdistill_ray.evaluation.knobs import EvaluationKnobs, Model
from fastdistill_ray.generation.requests import build_requests, has_one_that_fits
from fastdistill_ray.generation.vllm_engine import RELOAD_COLUMN
from fastdistill_ray.groups.log import Commit
from fastdistill_ray.groups.store import STORE, Store
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.records import Problem
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems


def test_evaluation_asks_each_model_what_it_has_not_answered_in_its_own_prompt(tmp_path):
    model = make_tiny_model(str(tmp_path / "model"))
    problems = made_up_problems(5)
    problems[4] = Problem("long", "made_up", "ood", "why " * 2000, "1", "number")
    write_problems(problems[:3], tmp_path / "test.parquet")
    write_problems(problems[3:], tmp_path / "ood.parquet")
    files = [ProblemFile(tmp_path / name) for name in ("test.parquet", "ood.parquet")]
    plain, asked = PromptKnobs(system=""), PromptKnobs(system="Answer.")
    models = [Model("student", model, asked), Model("base_plain", model, plain)]
    stores = {one.name: Store(tmp_path / one.name) for one in models}
    stores["student"].append([Commit("part-1.parquet", ["p00001"], [""], 1, 1, 0.0)])
    engine = {"max_model_len": 1024}
    knobs = EvaluationKnobs(max_new_tokens=32, engine=engine, seed=3)
    missing = missing_requests(models, files, stores, knobs)
    assert len(missing) == 9
    taken = [missing.take(np.arange(*span)).to_pylist() for span in ((0, 4), (4, 9))]
    rows = [row for rows in taken for row in rows]
    expected = [
        {**row, STORE: one.name}
        for one in models
        for row in build_requests(problems[:4], one.prompt, load_tokenizer(model), 3)
    ]
    del expected[1]
    assert [{k: v for k, v in row.items() if k != RELOAD_COLUMN} for row in rows] == expected
    assert {row[RELOAD_COLUMN] for row in rows} == {model}
    assert has_one_that_fits(missing)
    for name, store in stores.items():
        keys = [row["problem_id"] for row in rows if row[STORE] == name]
        store.append([Commit("part-2.parquet", keys, [""] * len(keys), 1, 1, 0.0)])
    left = missing_requests(models, files, stores, knobs)
    assert len(left) == 2
    assert not has_one_that_fits(left)
