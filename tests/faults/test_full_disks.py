"""A file system that is full or refuses to write: one line, and what was finished is kept."""

import contextlib
import errno
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.data.exceptions import UserCodeException
from ray.exceptions import RayTaskError
from support.groups import commits_of
from support.head import local_head
from support.jobs import ended, run_job, start_job, tiny_recipe, wait_for, write_recipe
from support.models import make_tiny_model
from support.run_folder import make_run

from fastdistill_ray import cli
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.driver import Job, main
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.pipeline import prepare_problems
from fastdistill_ray.run.room import check_room
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.room import refusal
from fastdistill_ray.tasks import load_problems


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 2 MiB, or of another size that the test asks for."""
    size = getattr(request, "param", "2m")
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """To the last byte."""
    with (folder / "filler").open("ab", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC


def run_driver(
    job: Callable[[Job], None], folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> int:
    """-> its exit code."""
    monkeypatch.setattr(ray, "init", lambda **_: None)  # the job asks for no cluster
    recipe = write_recipe(folder, tiny_recipe("m"))
    monkeypatch.setattr(sys, "argv", ["job", str(recipe), "--run-dir", str(run)])
    with pytest.raises(SystemExit) as ended:
        main(job)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    errors = said[said.index("error: ") :]
    assert errors.count("\n") == 1 and "Traceback" not in said, said
    return errors


def test_driver_on_a_full_disk_says_what_is_free_and_keeps_what_is_finished(
    small, tmp_path, monkeypatch, capsys
):
    run = small / "run"

    def job(job: Job) -> None:
        (job.run.path / "finished").put("work")
        job.room_needed = 3.0 * 2**20
        fill(small)
        (job.run.path / "next").put("x" * 2**16)

    assert run_driver(job, tmp_path, run, monkeypatch) == 1
    line = one_line(capsys)
    for words in (
        *(f"{run}/next: No space left on device", "0.0 MiB free", "needs about 3.0 MiB"),
        *("make room", "finished work is kept: the same command goes on from there"),
    ):
        assert words in line
    assert sorted(one.name for one in run.iterdir()) == ["finished"]


def test_driver_that_cannot_even_take_the_lease_says_so(small, tmp_path, monkeypatch, capsys):
    fill(small)
    assert run_driver(lambda job: None, tmp_path, small / "run", monkeypatch) == 1
    assert re.search(r"lease.*No space left", one_line(capsys))


def test_driver_on_a_read_only_file_system_says_so(small, tmp_path, monkeypatch, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    assert run_driver(lambda job: None, tmp_path, small / "run", monkeypatch) == 2
    assert "nothing can be made in" in (line := one_line(capsys))
    assert "Read-only file system" in line


def raised_by(cause: Exception | None) -> UserCodeException:
    error = UserCodeException("a UDF failed")
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/shared/run/part.parquet")
WRAPPED: list[Exception] = [
    FULL,
    RayTaskError("curate", "Traceback ...", FULL).as_instanceof_cause(),
    raised_by(RayTaskError("curate", "Traceback ...", FULL).as_instanceof_cause()),
    RuntimeError("I/O error: No space left on device (os error 28)"),
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    OSError(errno.EACCES, os.strerror(errno.EACCES), "/shared/run/stage.json"),
]


@pytest.mark.parametrize("error", WRAPPED, ids=lambda error: type(error).__name__)
def test_driver_finds_the_refusal_in_what_ray_wraps_it(error, tmp_path, monkeypatch, capsys):
    def job(_job: Job) -> None:
        raise error

    assert run_driver(job, tmp_path, tmp_path / "run", monkeypatch) == 1
    found = refusal(error)
    assert found is not None and found.errno is not None
    line = one_line(capsys)
    assert os.strerror(found.errno) in line
    assert (found.filename or str(tmp_path / "run")) in line
    assert ("free" in line) == (found.errno in (errno.ENOSPC, errno.EDQUOT))


def test_other_errors_are_no_refusal():
    assert refusal(ValueError("no space")) is None
    assert refusal(FileNotFoundError(errno.ENOENT, "none")) is None


def test_report_and_score_on_a_full_disk_end_with_a_line_and_change_nothing(
    small, tmp_path, capsys
):
    run = Path(make_run(str(small / "run")))
    responses = small / "in.jsonl"
    responses.write_text('{"id": 1, "kind": "number", "gold": "4", "response": "4"}\n')
    fill(small)
    before = {file: file.read_bytes() for file in small.rglob("*") if file.is_file()}
    for argv in (
        ["report", str(run)],
        ["audit", str(run)],
        ["score", str(responses), "--output", str(small / "out.jsonl")],
    ):
        assert cli.main(argv) == 1
        line = one_line(capsys)
        assert str(small) in line and "No space left on device; 0.0 MiB free" in line
    assert before == {file: file.read_bytes() for file in small.rglob("*") if file.is_file()}


def test_run_whose_models_do_not_fit_is_refused_naming_both(small, tmp_path):
    recipe = Recipe.model_validate(tiny_recipe(make_tiny_model(str(tmp_path / "model"))))
    run = RunFolder(Place(small / "run"), recipe)
    problems = prepare_problems(run)
    fill(small)
    with pytest.raises(UserError, match=r"--run-dir .*checkpoints need about \d\.\d MiB, 0\.0 MiB"):
        check_room(run, problems)


@pytest.mark.parametrize("small", ["6m"], indirect=True)
def test_run_whose_completions_might_not_fit_is_warned_and_goes_on(small, tmp_path, caplog):
    long = {"n": 8, "max_new_tokens": 2**20}
    recipe = Recipe.model_validate(
        tiny_recipe(make_tiny_model(str(tmp_path / "model")), sampling=long)
    )
    run = RunFolder(Place(small / "run"), recipe)
    assert check_room(run, prepare_problems(run)) > 6 * 2**20
    assert "completions up to" in caplog.text and "max_new_tokens" in caplog.text


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("small", ["12m"], indirect=True)
@pytest.mark.parametrize("moment", ["stages/groups/*/log", "stages/train/*/metrics.jsonl"])
def test_job_on_a_disk_that_fills_up_ends_with_a_line_and_goes_on(small, tmp_path, head, moment):
    model, run = make_tiny_model(str(tmp_path / "model")), small / "run"
    training = {"checkpoint_every": 1, "max_failures": 0}
    recipe = write_recipe(tmp_path, tiny_recipe(model, training=training))
    job = start_job("distill", recipe, tmp_path / "job", head, run_dir=str(run))
    with ended(job, tmp_path / "job"):
        wait_for(lambda: list(run.glob(moment)), job)
        fill(small)
        assert job.wait() == 1
    log = (tmp_path / "job.log").read_text()
    assert "Traceback" not in log
    line = next(line for line in log.splitlines() if line.startswith("error: "))
    assert "No space left on device; 0.0 MiB free" in line and "goes on from there" in line
    (small / "filler").unlink()
    stored = list(run.glob("stages/groups/*/part-*.parquet"))
    assert "report.html" in run_job("distill", recipe, run, head)
    assert "train" not in moment or [one for one in stored if one.exists()] == stored


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("small", ["48m"], indirect=True)
def test_job_beside_a_full_object_store_says_so_and_goes_on_once_there_is_room(small, tmp_path):
    """Somebody else's objects fill Ray's memory for objects and the disk they are moved to."""
    model, is_full = make_tiny_model(str(tmp_path / "model")), tmp_path / "is_full"
    problems = load_problems(Recipe.model_validate(tiny_recipe(model)).task)["train"]
    waits = {problem.problem_id: str(is_full) for problem in problems[4:]}
    extra = {"waits": waits, "log": str(tmp_path / "answered")}
    engine = {"kind": "scripted", "max_model_len": 1024, "extra": extra}
    recipe = tiny_recipe(
        model,
        teacher={"model": model, "engine": engine},
        sampling={"n": 16, "logprobs": 20},  # answers too large for Ray to keep with their task
        selection={"min_correct": 0},
    )
    run = tmp_path / "run"
    with local_head(80, str(small)) as head:
        job = start_job("generate", write_recipe(tmp_path, recipe), run, head)
        with ended(job, run):
            wait_for(lambda: len(answered(tmp_path)) == 4, job)
            ray.init(address=head, log_to_driver=False)
            held = fill_object_store()
            is_full.touch()
            log = Path(f"{run}.log")
            wait_for(lambda: "Ray's memory for objects is full (" in log.read_text(), job)
            del held
            assert job.wait() == 0
        ray.shutdown()
    (groups,) = (run / "stages/groups").iterdir()
    assert sum(len(commit["keys"]) for commit in commits_of(groups)) == len(problems)
    times = Counter(answered(tmp_path))
    assert times.keys() == {problem.problem_id for problem in problems}
    assert max(times.values()) <= 2, "twice where Ray lost what it had moved to the full disk"


def answered(folder: Path) -> list[str]:
    """Ids of problems, as often as an engine answered them."""
    file = folder / "answered"
    return file.read_text().split() if file.exists() else []


def fill_object_store() -> list[ray.ObjectRef]:
    """What keeps it full, in pieces small enough for no answer to fit beside them."""
    held = []
    with contextlib.suppress(ray.exceptions.OutOfDiskError, ray.exceptions.ObjectStoreFullError):
        while True:
            held.append(ray.put(np.ones(2**18, np.uint8)))
    return held
