import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_types_are_right():
    """Here rather than before all tests, so that it takes one core beside them."""
    command = [sys.executable, "-m", "pyright"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
