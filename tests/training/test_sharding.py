"""FSDP2 ranks with uneven shares against per-sequence forwards in float64."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from support.learner import assert_same
from support.models import make_tiny_model, make_twin_tokenizer
from support.objectives import knobs_of, teacher_of
from support.processes.ranks import DEALS, DEALT, make_groups
from support.reference import loss_and_gradients_by_definition

from fastdistill_ray.objectives import OBJECTIVES, Objective

# Every objective on two shards; elsewhere one that needs nothing and one that needs a teacher.
TIED = [("tied", json.dumps(knobs_of(kind))) for kind in OBJECTIVES]
TIED.append(("tied", json.dumps({"kind": "reverse_kl", "states": "bf16"})))
TIED.append(("tied", json.dumps({"kind": "opd", "form": "minillm", "reward": 1.0})))
UNTIED = [("untied", json.dumps(knobs_of(kind))) for kind in ("forward_kl", "topk_kl", "lit")]
BOTH = [
    ("tied", json.dumps({"kind": "forward_kl"})),
    ("untied", json.dumps({"kind": "advdistill"})),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("world_size", "replicas", "trained"),
    [
        pytest.param(2, 1, [*TIED, *UNTIED, *BOTH[1:]], id="two shards"),
        pytest.param(2, 2, BOTH, id="two copies"),
        pytest.param(4, 2, BOTH, id="two copies of two shards"),
    ],
)
def test_ranks_with_uneven_groups_equal_a_naive_float64_reference(
    tmp_path: Path, world_size: int, replicas: int, trained: list[tuple[str, str]]
) -> None:
    for model in ("tied", "untied"):
        make_tiny_model(str(tmp_path / model), seed=3, tie_word_embeddings=model == "tied")
    for teacher, num_heads in (("teacher", 2), ("wide", 3)):
        knobs = {"num_heads": num_heads, "tie_word_embeddings": teacher == "wide"}
        make_tiny_model(str(tmp_path / teacher), seed=4, num_layers=3, **knobs)
    twin = make_twin_tokenizer()
    make_tiny_model(str(tmp_path / "twin"), seed=4, num_layers=3, tokenizer=twin)
    out = tmp_path / "found.pt"
    script = str(Path(__file__).parents[1] / "support" / "processes" / "ranks.py")
    ranks = [
        subprocess.Popen(
            [
                *(sys.executable, script, str(tmp_path), str(rank), str(out)),
                *(str(world_size), str(replicas), *(word for pair in trained for word in pair)),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for rank in range(world_size)
    ]
    assert [rank.wait() for rank in ranks] == [0] * world_size
    found = torch.load(out)
    assert len(found) == len(trained) * (len(DEALS) + 1)
    for model, kind in trained:
        objective, folder = TypeAdapter(Objective).validate_json(kind), str(tmp_path / model)
        frozen = str(tmp_path / teacher_of(objective))
        beside = frozen if objective.needs.frozen or objective.needs.signal else ""
        expected = loss_and_gradients_by_definition(
            objective, folder, make_groups(objective, frozen), beside
        )
        for deal in (*DEALS, DEALT):
            loss, gradients, _terms, share = found[model, kind, deal]
            assert_same((loss, gradients), expected, 2e-5)
            assert deal != DEALT or share == pytest.approx(1 / world_size, abs=0.15)
