"""Recipes on a tiny random model, and running jobs as their own processes, as a cluster does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def tiny_recipe(model: str, **changes: dict | list) -> dict:
    """A recipe of the smallest sizes; sections in `changes` are merged into it."""
    engine = {"kind": "scripted", "max_model_len": 1024}
    recipe = {
        "name": "tiny",
        "task": {"name": "word_problems", "num_train": 24, "num_test": 6, "num_ood": 6},
        "teacher": {"model": model, "engine": engine},
        "student": {"model": model},
        "sampling": {"n": 4, "max_new_tokens": 128},
        "objective": {"kind": "advdistill"},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"epochs": 2, "groups_per_step": 4, "max_seq_len": 1024, "precision": "fp32"},
        "evaluation": {"max_new_tokens": 32, "engine": engine},
    }
    recipe |= {key: value for key, value in changes.items() if not isinstance(value, dict)}
    for section, fields in changes.items():
        if isinstance(fields, dict):
            recipe[section] = {**recipe.get(section, {}), **fields}
    return recipe


def write_recipe(folder: Path, recipe: dict) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


def start_job(verb: str, recipe: Path, run_dir: Path, num_cpus: int = 8) -> subprocess.Popen:
    """jobs/<verb>.py on its own local Ray (logical CPUs), output in <run_dir>.log."""
    script = next(
        path
        for path in (ROOT / "jobs", Path(__file__).parent / "processes")
        if (path / f"{verb}.py").exists()
    )
    code = (
        f"import sys, functools, runpy, ray; sys.argv = ['{verb}', {str(recipe)!r}, '--run-dir', "
        f"{str(run_dir)!r}]; ray.init = functools.partial(ray.init, address='local', "
        f"num_cpus={num_cpus}, include_dashboard=False, object_store_memory=300 * 2**20); "
        f"runpy.run_path({str(script / verb)!r} + '.py', run_name='__main__')"
    )
    log = open(f"{run_dir}.log", "a")  # noqa: SIM115  the child writes it
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=log,
        stderr=log,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        start_new_session=True,
    )


def run_job(verb: str, recipe: Path, run_dir: Path, timeout: float = 280) -> str:
    """Runs to the end; -> its output."""
    job = start_job(verb, recipe, run_dir)
    try:
        code = job.wait(timeout=timeout)
    finally:
        job.kill()
    output = Path(f"{run_dir}.log").read_text()
    assert code == 0, output[-3000:]
    return output


def lines_of(file: Path) -> list[dict]:
    if not file.exists():
        return []
    text = file.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
