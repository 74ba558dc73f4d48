"""`ray job submit` for our verbs: a small working directory, a local head when none runs.

Only the package, the jobs, the resolved recipe and the state of git travel to the cluster.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ray.job_submission import JobStatus, JobSubmissionClient

from fastdistill_ray.cluster.head import HEAD_START_SECONDS, _has_local_head, local_head
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.loading import dump_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.provenance import git_diff, git_state

ROOT = Path(__file__).parents[2]


def submit(verb: str, recipe: Recipe, run_dir: str, address: str, again: list[str]) -> int:
    """Run jobs/<verb>.py on the cluster at `address` ("": the running one, else a local one for
    the time of this job); streams its log; -> the exit code of the job's driver."""
    with contextlib.ExitStack() as stack:
        environment = {
            "PYTHONUNBUFFERED": "1",
            "RAY_DATA_LOG_LEVEL": "ERROR",
            "RAY_BACKEND_LOG_LEVEL": "fatal",
        }
        client = _client(address) or JobSubmissionClient(stack.enter_context(local_head()))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        _fill(Path(folder), recipe)
        job = _submit(
            client,
            shlex.join(
                [
                    *(*_python(address), f"jobs/{verb}.py", "recipe.yaml", "--run-dir", run_dir),
                    *(f"--again={stage}" for stage in again),
                ]
            ),
            {"working_dir": folder, "env_vars": environment},
        )
        try:
            asyncio.run(_stream(client, job))
        except KeyboardInterrupt:
            client.stop_job(job)
            raise
        return _exit_code(client, job)


def _client(address: str) -> JobSubmissionClient | None:
    """Client of the cluster named, or of the one that runs on this machine, if any."""
    if not address and "RAY_ADDRESS" not in os.environ and not _has_local_head():
        return None
    try:
        return JobSubmissionClient(address or None)
    except ConnectionError as error:
        name = address or os.environ.get("RAY_ADDRESS", "")
        raise UserError(f"--address {name}: no Ray cluster answers there") from error


def _submit(client: JobSubmissionClient, entrypoint: str, runtime_env: dict[str, Any]) -> str:
    """A head answers before its agent, which starts jobs, is there: ask until it is."""
    deadline = time.monotonic() + HEAD_START_SECONDS
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _python(address: str) -> list[str]:
    return ["python"] if address else [sys.executable]


def _fill(folder: Path, recipe: Recipe) -> None:
    for name in ("fastdistill_ray", "jobs"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    (folder / "git.txt").write_text(f"{git_state()}\n{git_diff()}", encoding="utf-8")


async def _stream(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)  # noqa: T201


def _exit_code(client: JobSubmissionClient, job: str) -> int:
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.2)
    info = client.get_job_info(job)
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.driver_exit_code is None:
        print(f"error: {info.message}", file=sys.stderr)  # noqa: T201
    return info.driver_exit_code or 1
