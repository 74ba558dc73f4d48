"""The installed package, away from its checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.jobs import ROOT
from support.models import make_tiny_model

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "fastdistill_ray", "jobs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: building leaves files beside the sources."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        one = ROOT / name
        shutil.copytree(one, copy / name) if one.is_dir() else shutil.copy(one, copy / name)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(out), str(copy))
    (found,) = out.glob("fastdistill_ray-*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--target", str(folder), str(wheel))
    return folder


def pip(verb: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, *arguments], check=True)


def fastdistill(site: Path, folder: Path, *arguments: str) -> str:
    """-> what it says, from a folder that has nothing of the checkout."""
    dropped = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    done = subprocess.run(
        [str(site / "bin" / "fastdistill"), *arguments],
        env={**environment, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"},
        cwd=folder,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_wheel_holds_every_file_of_the_package_and_of_jobs(wheel):
    files = [file for file in ROOT.glob("fastdistill_ray/**/*.*") if file.suffix != ".pyc"]
    files += [*ROOT.glob("jobs/*.*"), *ROOT.glob("jobs/recipes/**/*.yaml")]
    expected = {str(file.relative_to(ROOT)) for file in files}
    expected = {name if name[:5] != "jobs/" else f"fastdistill_ray/{name}" for name in expected}
    with zipfile.ZipFile(wheel) as opened:
        there = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert there == expected


@pytest.mark.parametrize("recipe", ["gsm8k", pytest.param("methods/dpo", marks=pytest.mark.long)])
def test_wheel_in_an_empty_folder_plans_a_shipped_recipe(recipe, site, tmp_path):
    plan = fastdistill(site, tmp_path, "distill", recipe, "--dry-run")
    assert "\ngenerate " in plan and "\nevaluate " in plan
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.slow
def test_wheel_in_an_empty_folder_runs_a_shipped_recipe(site, tmp_path):
    make_tiny_model(str(tmp_path / "model"))
    sizes = {"num_train": 8, "num_validation": 4, "num_test": 6, "num_ood": 6}
    changes = {f"task.{name}": size for name, size in sizes.items()}
    changes |= {"teacher.model": "model", "student.model": "model", "compare.epochs": "[]"}
    changes |= {"teacher.engine.kind": "scripted", "evaluation.engine.kind": "scripted"}
    changes |= {"compare.learning_rates": "[]", "compare.students": "[]"}
    overrides = [f"--{field}={value}" for field, value in changes.items()]
    fastdistill(site, tmp_path, "distill", "demo", "--run-dir", "run", *overrides)
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "students" / "advdistill" / "config.json").is_file()
