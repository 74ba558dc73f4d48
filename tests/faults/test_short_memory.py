"""A node short of memory: Ray ends what takes it, and the engine that is started again is asked
less at once."""

from pathlib import Path

import psutil
import pytest
from support.groups import commits_of
from support.jobs import run_job, tiny_recipe, write_recipe
from support.models import make_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MIB_EACH, AT_ONCE = 512, 12  # requests, of which two thirds fit


def test_engine_that_takes_too_much_memory_is_asked_less_and_answers_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()
    needed = AT_ONCE * MIB_EACH << 20
    if memory.available < 2 * needed:
        pytest.skip("it needs 12 GiB")
    threshold = (memory.total - memory.available + needed * 2 / 3) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{threshold:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    model = make_tiny_model(str(tmp_path / "model"))
    engine = {
        "kind": "scripted",
        "max_model_len": 1024,
        "max_num_seqs": 4 * AT_ONCE,
        "extra": {"seconds_per_request": 3.0, "mib_per_request": MIB_EACH},
    }
    recipe = tiny_recipe(
        model,
        task={"num_train": 40},
        teacher={"model": model, "engine": engine},
        pools={"teacher": {"workers": 1}},
        selection={"min_correct": 0},
    )
    said = run_job("generate", write_recipe(tmp_path, recipe), tmp_path / "run")
    assert "its node was short of memory" in said and "it is asked 1 / 2 at once" in said
    (groups,) = (tmp_path / "run/stages/groups").iterdir()
    assert sum(len(commit["keys"]) for commit in commits_of(groups)) == 40
