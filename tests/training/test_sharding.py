"""FSDP2 ranks with uneven shares against per-sequence forwards in float64."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.learner import assert_same, reference_advdistill
from support.models import make_tiny_model
from support.processes.ranks import DEALS, DEALT, make_groups


@pytest.mark.parametrize(
    ("world_size", "replicas"),
    [(2, 1), (2, 2), (4, 2)],
    ids=["two shards", "two copies", "two copies of two shards"],
)
def test_ranks_with_uneven_groups_equal_a_naive_float64_reference(
    tmp_path: Path, world_size: int, replicas: int
) -> None:
    kinds = ("tied", "untied")
    for kind in kinds:
        make_tiny_model(str(tmp_path / kind), seed=3, tie_word_embeddings=kind == "tied")
    out = tmp_path / "found.pt"
    script = str(Path(__file__).parents[1] / "support" / "processes" / "ranks.py")
    ranks = [
        subprocess.Popen(
            [
                *(sys.executable, script, str(tmp_path), str(rank), str(out)),
                *(str(world_size), str(replicas), *kinds),
            ]
        )
        for rank in range(world_size)
    ]
    assert [rank.wait() for rank in ranks] == [0] * world_size
    found = torch.load(out)
    expected = {kind: reference_advdistill(str(tmp_path / kind), make_groups()) for kind in kinds}
    assert len(found) == 2 * (len(DEALS) + 1)
    for (kind, deal), (loss, gradients, _terms, share) in found.items():
        assert_same((loss, gradients), expected[kind], 1e-5)
        assert deal != DEALT or share == pytest.approx(1 / world_size, abs=0.1)
