"""`ray job submit` for our verbs: a small working directory, a local head when none runs.

Only the package, the jobs, the resolved recipe and the state of git travel to the cluster; keys are
read on its nodes and never travel.
"""

import contextlib
import logging
import math
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ray.job_submission import JobDetails, JobStatus

from fastdistill_ray.cluster.dashboard import NOT_ANSWERING, Dashboard
from fastdistill_ray.cluster.head import HEAD_START_SECONDS, local_head, log_of_job
from fastdistill_ray.cluster.running import find_head
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.loading import dump_recipe
from fastdistill_ray.recipe.shipped import PACKAGE, jobs_folder
from fastdistill_ray.recipe.tree import AnyRecipe, Recipe
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.following import JobLog
from fastdistill_ray.run.provenance import code_state
from fastdistill_ray.run.servers import check_asked
from fastdistill_ray.run.signals import GOES_ON, Stopped, say, signals_raise_stopped

# Ray lets these name a cluster, and prefers them to what its client is told.
NAMING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
UNREACHABLE = 1
# How long a job that is told to stop has for it; read in its own environment too.
STOP_WAIT, LEAST_STOP_SECONDS = "RAY_JOB_STOP_WAIT_TIME_S", 60
STOP_SECONDS = 5.0  # that a driver has to end, beside its training's own
CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")


class Cluster(NamedTuple):
    client: Dashboard
    is_ours: bool  # ends with this process
    is_alive: Callable[[], bool]

    @property
    def address(self) -> str:
        return self.client.get_address()


def submit(
    verb: str,
    recipe: AnyRecipe,
    run_dir: str,
    address: str,
    again: list[str],
    variables: Mapping[str, str],
) -> int:
    """Run jobs/<verb>.py on the cluster at `address` ("": the one RAY_ADDRESS names, the running
    one, else a local one for the time of this job); streams its log; -> the exit code of its
    driver. Told to stop, a local one of ours ends with its job; elsewhere the job goes on.
    `variables` go into its environment."""
    cluster = log = None
    address = address or next(filter(None, map(os.environ.get, NAMING)), "")
    entrypoint = [
        *(*_python(address), f"jobs/{verb}.py", "recipe.yaml", "--run-dir", run_dir),
        *(f"--again={stage}" for stage in again),
    ]
    try:
        run = RunFolder(run_dir, recipe) if isinstance(recipe, Recipe) else None
        check = partial(check_asked, run, verb) if run else lambda: None
        with signals_raise_stopped(), _cluster(address, check) as cluster:
            with tempfile.TemporaryDirectory() as folder:
                _fill(Path(folder), recipe)
                job = f"fastdistill_{secrets.token_hex(8)}"
                log = JobLog(cluster.client, job, is_here=cluster.is_ours)
                seconds = math.ceil(recipe.stop_seconds + STOP_SECONDS)
                given = {**variables, STOP_WAIT: str(max(LEAST_STOP_SECONDS, seconds))}
                _submit(cluster.client, log.job, shlex.join(entrypoint), folder, given)
            try:
                return _follow(log, cluster)
            except Stopped as stopped:
                if cluster.is_ours and stopped.number != signal.SIGINT:
                    _stop(cluster, log.job, recipe.stop_seconds)
                raise
    except Stopped as stopped:
        if log is None or cluster is None or cluster.is_ours:
            say(f"stopped; {GOES_ON}")
        else:
            say(f"left; the job goes on. {_ways(cluster.address, log.job)}")
        return stopped.exit_code


def follow(address: str, submission_id: str) -> int:
    """Streams what a running job writes from now on until it ends; -> the exit code of its driver.
    Told to stop, it leaves the job running."""
    try:
        with signals_raise_stopped():
            client = _client(address)
            try:
                written = len(client.get_job_logs(submission_id))
            except NOT_ANSWERING as error:
                raise UserError(f"no job {submission_id} at {address}") from error
            log = JobLog(client, submission_id, written)
            return _follow(log, Cluster(client, is_ours=False, is_alive=lambda: True))
    except Stopped as stopped:
        say(f"left; the job goes on. {_ways(address, submission_id)}")
        return stopped.exit_code


@contextlib.contextmanager
def _cluster(address: str, check: Callable[[], None]) -> Iterator[Cluster]:
    """`check`: what must be so of this machine before a head starts on it."""
    if address:
        yield Cluster(_client(address), is_ours=False, is_alive=lambda: True)
        return
    found = find_head()
    if found.address:
        say(f"joined the Ray head at {found.address}, which stays when this job ends")
        yield Cluster(_client(found.address), is_ours=False, is_alive=lambda: True)
        return
    check()
    reason = f"; not joined: {found.reason}" if found.reason else ""
    say(f"a Ray head starts on this machine for the time of this job{reason}")
    with local_head() as head:
        yield Cluster(_client(head.address), is_ours=True, is_alive=head.is_alive)


def _client(address: str) -> Dashboard:
    for name in NAMING:
        os.environ.pop(name, None)
    try:
        return Dashboard(address)
    except NOT_ANSWERING as error:
        line = (str(error).splitlines() or [""])[0]
        raise UserError(f"--address {address}: no Ray cluster takes jobs there: {line}") from error


def _submit(
    client: Dashboard, job: str, entrypoint: str, folder: str, variables: Mapping[str, str]
) -> None:
    """A head answers before its agent, which starts jobs, is there, and a busy one may drop a
    connection: ask until it takes the job, which by its name it takes once."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    environment = {
        **variables,
        "PYTHONUNBUFFERED": "1",
        "RAY_DATA_LOG_LEVEL": "ERROR",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        # Where this job can be looked at and stopped, for whoever finds its run folder taken.
        "FASTDISTILL_JOB": job,
        "FASTDISTILL_DASHBOARD": client.get_address(),
    }
    runtime_env: dict[str, Any] = {"working_dir": folder, "env_vars": environment}
    deadline = time.monotonic() + HEAD_START_SECONDS
    is_asked_again = False
    while True:
        try:
            client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=runtime_env)
            return
        except NOT_ANSWERING as error:
            if is_asked_again and "already exists" in str(error):
                return
            is_passing = isinstance(error, OSError) or "No available agent" in str(error)
            if not is_passing or time.monotonic() > deadline:
                line = (str(error).splitlines() or [""])[0]
                address = client.get_address()
                raise UserError(f"{address} does not take the job: {line}") from error
            is_asked_again = True
            time.sleep(1.0)


def _stop(cluster: Cluster, job: str, seconds: float) -> None:
    """A training has that long for a checkpoint; what else runs ends at once."""
    deadline = time.monotonic() + seconds + STOP_SECONDS
    with contextlib.suppress(*NOT_ANSWERING):
        cluster.client.stop_job(job)
        while time.monotonic() < deadline and cluster.is_alive():
            if cluster.client.get_job_status(job).is_terminal():
                return
            time.sleep(0.2)


def _python(address: str) -> list[str]:
    return ["python"] if address else [sys.executable]


def _fill(folder: Path, recipe: AnyRecipe) -> None:
    for name, source in {"fastdistill_ray": PACKAGE, "jobs": jobs_folder()}.items():
        without = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(source, folder / name, ignore=without)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    state = code_state(key_variables(recipe.model_dump()))
    (folder / "git.txt").write_text(state, encoding="utf-8")


def key_variables(knobs: Any) -> list[str]:
    """Every variable that a recipe says holds a key."""
    if isinstance(knobs, list):
        return [name for one in knobs for name in key_variables(one)]
    if not isinstance(knobs, dict):
        return []
    own = [knobs["api_key_env"]] if knobs.get("api_key_env") else []
    return own + [name for one in knobs.values() for name in key_variables(one)]


def _follow(log: JobLog, cluster: Cluster) -> int:
    """Says how it ended unless all is well; -> the exit code."""
    details = log.follow(cluster.is_alive)
    if details is None and cluster.is_ours:
        say(f"the Ray head on this machine has ended; {GOES_ON}. Log: {log_of_job(log.job)}")
        return UNREACHABLE
    if details is None:
        say(f"the Ray dashboard does not answer any more. {_ways(cluster.address, log.job)}")
        return UNREACHABLE
    where = log_of_job(log.job) if cluster.is_ours else _logs(cluster.address, log.job)
    return _exit_code(details, where)


def _exit_code(details: JobDetails, where: str) -> int:
    if details.status == JobStatus.SUCCEEDED:
        return 0
    code = details.driver_exit_code or 1
    code = code if code > 0 else 128 - code  # Ray says -9 where a shell says 137
    if details.status == JobStatus.STOPPED:
        say(f"the job was stopped; {GOES_ON}. Log: {where}")
    elif details.driver_exit_code is None:
        say(f"the job failed: {details.message} Log: {where}")
    else:
        killed = f"; {GOES_ON}" if code > 128 else ""
        say(f"the job failed with exit code {code}{killed}. Log: {where}")
    return code


def _ways(address: str, job: str) -> str:
    return (
        f"See it: {_logs(address, job)} --follow; "
        f"stop it: RAY_AUTH_MODE=token ray job stop {job} --address {address}"
    )


def _logs(address: str, job: str) -> str:
    return f"RAY_AUTH_MODE=token ray job logs {job} --address {address}"
