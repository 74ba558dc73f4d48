"""Whole jobs whose student writes what it is trained on, by a real vLLM engine beside the training."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.jobs import (
    kill_with_children,
    lines_of,
    run_job,
    stage_folder,
    start_job,
    tiny_recipe,
    wait_for,
    write_recipe,
)
from support.models import make_tiny_model
from transformers import AutoModelForCausalLM

from fastdistill_ray.groups.steps import DRAWN, drawn_signals
from fastdistill_ray.groups.store import Store

pytestmark = pytest.mark.ray
ENGINE = {"kind": "vllm", "max_model_len": 256, "max_num_seqs": 8, "dtype": "float32"}
ENGINE |= {"enforce_eager": True, "cpu_kv_cache_gib": 1}
SMALL = {"evaluation": {"engine": ENGINE, "max_new_tokens": 8}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make_tiny_model(str(folder / name), seed=seed) for seed, name in enumerate("ab")}


def recipe_of(models: dict[str, str], **changes: dict | list) -> dict:
    """Model a writes, model b says what it thinks of that; nobody writes groups for the store."""
    sections = {
        "teacher": {"model": models["b"], "engine": {"max_model_len": 256, **ENGINE}},
        "sampling": {"n": 2, "max_new_tokens": 12},
        "objective": {"kind": "opd"},
        "rounds": {"count": 4, "n": 3},
        "training": {"groups_per_step": 2, "max_seq_len": 256},
        "compare": {"baselines": []},
        **SMALL,
    }
    return tiny_recipe(models["a"], **{**sections, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, models: dict[str, str], head: str) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    run_job("distill", write_recipe(folder, recipe_of(models)), folder / "run", head)
    return folder / "run"


def groups_of(run: Path) -> list[dict]:
    store = Store(stage_folder(run, "train") / "groups")
    return [row for table in store.tables() for row in table.to_pylist()]


def test_each_round_is_written_by_the_student_that_the_last_one_made(run):
    groups = groups_of(run)
    assert [group["round"] for group in groups] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len({group["problem_id"] for group in groups}) == 8
    metrics = lines_of(stage_folder(run, "train") / "metrics.jsonl")
    assert [line["rounds/version"] for line in metrics] == [0, 1, 2, 3]
    assert not (run / "stages/groups").exists(), "a teacher's text is paid for and not used"
    manifest = json.loads((stage_folder(run, "train") / "manifest.json").read_text())
    written = sum(one["num_tokens"] for group in groups for one in group["completions"])
    assert manifest["facts"]["written_tokens"] == written > 0
