"""What the benchmarks share: their --json option, fresh processes, medians of repeats, rows."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """With the module's whole docstring as help, and the option that all have."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", default="", metavar="FILE", help="the result is written there")
    return parser


def write_json(file: str, result: Any) -> None:
    """Nothing where --json was not given."""
    if file:
        Path(file).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def print_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """One line of JSON each."""
    for row in rows:
        print(json.dumps(row, ensure_ascii=False), flush=True)


def run_fresh(
    module: str, *arguments: str, env: Mapping[str, str] | None = None, log: Path | None = None
) -> str:
    """A module in a process of its own -> what it printed; its errors go to `log`, if given.

    Through files: a pipe would stay open as long as the last process that it started.
    """
    with tempfile.TemporaryDirectory() as folder:
        printed, errors = Path(folder) / "printed", log or Path(folder) / "errors"
        with open(printed, "wb") as stdout, open(errors, "wb") as stderr:
            done = subprocess.run(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdout=stdout,
                stderr=stderr,
                check=False,
            )
        text = printed.read_text(encoding="utf-8", errors="replace")
        if done.returncode:
            why = errors.read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"{module} {' '.join(arguments)}: {text[-2000:]}{why[-5000:]}")
    return text


def with_spread(name: str, values: list[float]) -> dict[str, Any]:
    """Columns of a row: the median of the repeats, and their least and largest."""
    return {name: statistics.median(values), f"{name}_spread": [min(values), max(values)]}
