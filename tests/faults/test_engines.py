"""Engines that die, hang, fail and do not start, through the real loop: every group that can be had
is there once, the others are set aside with their reason, and nothing is asked without need."""

import json
import os
import re
import signal
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
import ray
from support.groups import commits_of
from support.models import make_tiny_model

from fastdistill_ray.cluster.pools import PoolKnobs, PoolsKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import EngineKnobs, SamplingKnobs, TeacherKnobs
from fastdistill_ray.groups.aside import set_aside
from fastdistill_ray.groups.curation import curate
from fastdistill_ray.groups.store import Store
from fastdistill_ray.records import Problem
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import Judging, SelectionKnobs
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.usefixtures("cluster")]
JUDGING = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs(min_correct=0))
SAMPLING = SamplingKnobs(n=2, max_new_tokens=32, max_set_aside=0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(str(tmp_path_factory.mktemp("model")))


def problems_in(folder: Path, count: int) -> ProblemFile:
    problems = [
        Problem(f"p{i:03d}", "sums", "train", f"{i}?", f"{i}", "number") for i in range(count)
    ]
    write_problems(problems, folder / "train.parquet")
    return ProblemFile(folder / "train.parquet")


def generate(
    folder: Path,
    model: str,
    count: int,
    workers: int | list[int] = 1,
    stall_minutes: float = 60.0,
    **extra,
) -> StageResult:
    engine = EngineKnobs(kind="scripted", max_model_len=1024, max_num_seqs=16, extra=extra)
    teacher = TeacherKnobs(model=model, engine=engine)
    pools = PoolsKnobs(
        teacher=PoolKnobs.model_validate({"workers": workers, "cpus": 0.5}),
        judges=PoolKnobs(cpus=0.5),
        stall_minutes=stall_minutes,
    )
    out = Place(folder / "groups")
    return curate(problems_in(folder, count), [teacher], SAMPLING, JUDGING, pools, [], out=out)


def keys(folder: Path) -> list[str]:
    return [key for commit in commits_of(folder / "groups") for key in commit["keys"]]


def test_problem_that_kills_its_engine_is_set_aside_and_all_others_are_there(
    tmp_path: Path, model: str
) -> None:
    result = generate(tmp_path, model, 60, kills=["p017"])
    assert sorted(keys(tmp_path)) == [f"p{i:03d}" for i in range(60) if i != 17]
    assert result.set_aside == {"not_answered": 1}
    (reason,) = set_aside(Store(tmp_path / "groups")).values()
    assert "without a word" in reason


def test_problem_that_is_answered_with_errors_is_set_aside_and_asked_again_by_the_next_run(
    tmp_path: Path, model: str
) -> None:
    result = generate(tmp_path, model, 40, fails=["p003", "p004"])
    assert result.set_aside == {"not_answered": 2}
    lines = (tmp_path / "groups/set_aside.jsonl").read_text().splitlines()
    assert {json.loads(line)["key"] for line in lines} == {"p003", "p004"}
    assert "no answer to p003" in lines[0]
    before = keys(tmp_path)
    assert generate(tmp_path, model, 40).set_aside == {}
    assert keys(tmp_path)[: len(before)] == before
    assert sorted(keys(tmp_path)) == [f"p{i:03d}" for i in range(40)]


@pytest.mark.slow
def test_too_many_failing_problems_end_the_stage_in_one_line_and_keep_the_others(
    tmp_path: Path, model: str
) -> None:
    bad = [f"p{i:03d}" for i in range(0, 40, 2)]
    with pytest.raises(
        UserError, match=r"requests failed 3 times each; no answer to p\d+; "
    ) as caught:
        generate(tmp_path, model, 40, fails=bad)
    assert "\n" not in str(caught.value) and "start again to go on" in str(caught.value)
    found = keys(tmp_path)
    assert len(found) == len(set(found)) > 0 and not set(found) & set(bad)


def test_engine_that_does_not_start_ends_the_stage_in_one_line(tmp_path: Path, model: str) -> None:
    with pytest.raises(UserError, match=r"the engine of .* does not start: ValueError") as caught:
        generate(tmp_path, model, 4, seconds_per_request="soon")
    assert "\n" not in str(caught.value)


def test_engine_that_dies_as_it_starts_ends_the_stage_in_one_line(
    tmp_path: Path, model: str
) -> None:
    with pytest.raises(UserError, match=r"an engine died 3 times as it started; ") as caught:
        generate(tmp_path, model, 4, dies_at_start=True)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_engine_that_hangs_ends_the_stage_and_leaves_where_it_hangs(
    tmp_path: Path, model: str
) -> None:
    with pytest.raises(UserError, match=r"nothing came back for .*pools\.stall_minutes.*stall-"):
        generate(tmp_path, model, 6, stall_minutes=0.1, hangs=["p002"])
    (evidence,) = (tmp_path / "groups").glob("stall-*.txt")
    assert "asking.py" in evidence.read_text()
    assert len(keys(tmp_path)) == 5


def title_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


@pytest.mark.slow
def test_actors_killed_at_random_lose_and_double_nothing(tmp_path: Path, model: str) -> None:
    """Engines and judges by turns."""
    killed: set[int] = set()
    over = threading.Event()

    def kill() -> None:
        while not over.wait(2.0):
            title = ("MapBatches(Asking)", "MapBatches(RowWriter)")[len(killed) % 2]
            mine = [
                process
                for process in psutil.Process().children(recursive=True)
                if title in title_of(process) and process.pid not in killed
            ]
            if mine and len(killed) < 4 and len(keys(tmp_path)) > 8 * len(killed):
                os.kill(mine[0].pid, signal.SIGKILL)
                killed.add(mine[0].pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        result = generate(tmp_path, model, 80, workers=2, seconds_per_request=1.0)
    finally:
        over.set()
        thread.join()
    assert len(killed) > 1
    assert sorted(keys(tmp_path)) == [f"p{i:03d}" for i in range(80)]
    assert result.set_aside == {}


@pytest.mark.slow
def test_pool_of_several_sizes_grows_and_releases_those_that_nothing_is_left_for(tmp_path, model):
    """The first two requests are answered once one engine alone is left, all others once there are
    three."""
    files = {size: str(tmp_path / f"engines_{size}") for size in (3, 1)}
    waits = {f"p{number:03d}": files[1 if number < 2 else 3] for number in range(100)}
    sizes, over = [], threading.Event()
    job = ray.get_runtime_context().get_job_id()

    def watch() -> None:
        left = [3, 1]
        while left and not over.wait(0.1):
            actors = ray._private.state.actors().values()
            alive = [
                one
                for one in actors
                if "Asking" in one["ActorClassName"]
                and (one["State"], one["JobID"]) == ("ALIVE", job)
            ]
            sizes.append(len(alive))
            if sizes[-1] == left[0]:
                Path(files[left.pop(0)]).touch()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = generate(tmp_path, model, 100, workers=[1, 3], waits=waits)
    finally:
        over.set()
        watcher.join()
    assert result.rows_out == 100
    assert sizes[-1] == 1 and 3 in sizes  # one that was released may still be ending beside them


def test_prometheus_is_shown_what_is_committed_failed_and_set_aside(tmp_path, model):
    """As Prometheus reads it, from the node's own page."""
    generate(tmp_path, model, 12, fails=["p004"])
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = {
        "rows": 11.0,
        "rows_planned": 12.0,
        "requests_failed": 3.0,
        "requests_set_aside": 1.0,
        "engines": 1.0,
        "kept_share": 1.0,
    }
    found: dict[str, float] = {}
    job = ray.get_runtime_context().get_job_id()
    while found != wanted:  # the node's page is renewed every few seconds
        time.sleep(0.5)
        with urllib.request.urlopen(page) as answer:
            text = answer.read().decode()
        lines = re.findall(r"^ray_fastdistill_(\w+)\{(.*)\} (\S+)$", text, re.M)
        found = {
            name: float(value)
            for name, tags, value in lines
            if name in wanted and f'job="{job}"' in tags and 'stage="generate groups"' in tags
        }
    tokens = sum(commit["num_tokens"] for commit in commits_of(tmp_path / "groups"))
    assert re.search(rf"^ray_fastdistill_tokens\{{.*\}} {float(tokens)}$", text, re.M)
