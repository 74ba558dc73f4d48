"""The folder of a run: its recipe, and stages that are skipped when complete. No Ray, no torch."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.recipe.loading import dump_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.provenance import code_state, versions
from fastdistill_ray.run_files import MANIFEST, StageResult, write_text

logger = logging.getLogger(__name__)

FREE_FIELDS = ("pools.", "tracking.", "reward.max_failed_share ")  # change no result of a run


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


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in _differences(old.get(key), new.get(key), f"{prefix}{key}.")
        ]
    return [] if old == new else [f"{prefix.rstrip('.')} was {old!r:.200}, now {new!r:.200}"]
