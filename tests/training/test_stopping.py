"""Two ranks are told to stop."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support/processes/stopping.py"


@pytest.mark.parametrize("rows", [(3, 3), (3, 5)])
def test_ranks_of_which_one_waits_for_groups_stop_together_when_told(
    rows: tuple[int, int], tmp_path: Path
) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path), str(rank), str(count)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, count in enumerate(rows)
    ]
    while not (tmp_path / "waits0").exists():
        assert all(rank.poll() is None for rank in ranks)
        time.sleep(0.1)
    (tmp_path / "stop").touch()
    assert [rank.communicate(timeout=120)[0].strip() for rank in ranks] == ["3"] * 2
