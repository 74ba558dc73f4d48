"""What Ray Data, judging and committing cost around an engine that needs no time: a scripted one.

    python -m benchmarks.plumbing [--json FILE] [--sizes 1000 10000 100000] [--actors 1 2 4 8 16]
        [--nodes 3] [--seconds-per-request 0] [--commits 1000000]

Scale: the stage `generate` over more and more problems, n = 8: groups per second between the first
and the last commit, in each tenth of the run, and the driver's memory at the edges of the tenths,
which grows until Ray Data's queues are full; and the CPU time of the driver's process for a group,
between the first commit and the last (aimed at: 0.3 ms). Efficiency: actors that take 2 s for a
request, four at once: the time that takes over the time measured, on one local node and on --nodes
simulated ones. Actors start before the clock does. Listing: what reading a log of that many groups
takes, in seconds and memory, with a commit each and compacted.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.harness import make_parser, print_rows, run_fresh, write_json

N = 8
AT_ONCE = 4  # requests an actor of the efficiency runs works on
MANY = 512  # of the scale runs
ROUNDS = 12  # each actor's requests over AT_ONCE
SLOW = 2.0


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--nodes", type=int, default=3, help="of the simulated cluster; 0: none")
    parser.add_argument("--seconds-per-request", type=float, default=0.0, help="of the scale runs")
    parser.add_argument("--commits", type=int, default=1_000_000, help="of the log; 0: none")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        work = json.loads(arguments.one)
        print(json.dumps(list_commits(**work) if "commits" in work else measure(work)))
        return
    listing = [
        run_one(commits=commits, rows=arguments.commits // commits)
        for commits in (arguments.commits, arguments.commits // 1024)
        if commits
    ]
    scale = [
        run_one(problems=size, seconds=arguments.seconds_per_request, actors=2, nodes=0)
        for size in arguments.sizes
    ]
    efficiency = [
        run_one(problems=actors * AT_ONCE * ROUNDS, seconds=SLOW, actors=actors, nodes=nodes)
        for nodes in dict.fromkeys([0, arguments.nodes])
        for actors in arguments.actors
    ]
    result = {
        "listing": listing,
        "scale": scale,
        "efficiency": efficiency,
        "ratios": ratios(scale, efficiency),
    }
    print(json.dumps(result["ratios"], indent=1))
    write_json(arguments.json, result)


def run_one(**work: Any) -> dict[str, Any]:
    printed = run_fresh("benchmarks.plumbing", "--one", json.dumps(work))
    found = json.loads(printed.splitlines()[-1])
    print_rows([found])
    return found


def ratios(scale: list[dict[str, Any]], efficiency: list[dict[str, Any]]) -> dict[str, float]:
    rate = {one["problems"]: one["groups_per_second"] for one in scale}
    sizes = sorted(rate)
    found = {}
    if len(sizes) > 1:
        found["rate_of_largest_over_second"] = rate[sizes[-1]] / rate[sizes[-2]]
        found["last_tenth_over_first"] = scale[-1]["tenths"][-1] / scale[-1]["tenths"][0]
        memory = scale[-1]["driver_mib"]
        found["driver_cpu_ms_per_group"] = scale[-1]["driver_cpu_ms_per_group"]
        found["driver_mib_grown_from_second_to_ninth_tenth"] = memory[9] - memory[2]
    for one in efficiency:
        where = f"{one['nodes']}_nodes" if one["nodes"] else "local"
        found[f"efficiency_{one['actors']}_actors_{where}"] = one["efficiency"]
    return found


def measure(work: dict[str, Any]) -> dict[str, Any]:
    """One run of the stage in this process, which is its driver."""
    import ray.data

    from fastdistill_ray.recipe.loading import parse_recipe
    from fastdistill_ray.run.driver import quiet
    from fastdistill_ray.run.folder import RunFolder
    from fastdistill_ray.run.pipeline import generate_groups
    from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems

    quiet()
    cluster = start_cluster(work["nodes"], work["actors"])
    ray.data.DataContext.get_current().wait_for_min_actors_s = 600
    with tempfile.TemporaryDirectory() as folder:
        recipe = parse_recipe(recipe_tree(work), "benchmark")
        write_problems(made_up_problems(work["problems"]), Path(folder) / "train.parquet")
        run = RunFolder(f"{folder}/run", recipe)
        with Driver() as driver:
            start = time.time()
            out = generate_groups(run, ProblemFile(f"{folder}/train.parquet"))
            end = time.time()
        found = times(out, work, driver)
    ray.shutdown()
    if cluster:
        cluster.shutdown()
    return {**work, **found, "stage_seconds": end - start}


def made_up_problems(count: int) -> list[Any]:
    from fastdistill_ray.records import Problem

    return [
        Problem(f"p{i:07d}", "sums", "train", f"How much is {i} + {i}?", f"{2 * i}", "number")
        for i in range(count)
    ]


def list_commits(commits: int, rows: int) -> dict[str, Any]:
    """Seconds of each way to read the log, and memory it adds at most, read in this order."""
    import resource

    from fastdistill_ray.groups.steps import read_index
    from fastdistill_ray.groups.store import LogFollower, Store
    from fastdistill_ray.tasks.problem_file import ProblemFile, digests

    found: dict[str, Any] = {"commits": commits, "rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        writer = multiprocessing.Process(target=write_log, args=(folder, commits, rows))
        writer.start()
        writer.join()
        store, file = Store(folder), f"{folder}/train.parquet"
        follower = LogFollower(store)
        reads = {
            "count": store.num_kept,
            "follow": lambda: sum(1 for _ in follower.new()),
            "poll_again": lambda: sum(1 for _ in follower.new()),
            "missing": lambda: len(ProblemFile(file).rows_without(digests(store.keys()))),
            "index": lambda: read_index(store).num_rows,
        }
        for name, read in reads.items():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.perf_counter()
            found[f"{name}_gives"] = read()
            found[f"{name}_seconds"] = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            found[f"{name}_peak_mib_added"] = (peak - before) / 1024
    return found


def write_log(folder: str, commits: int, rows: int) -> None:
    """As of a store, without its files."""
    from fastdistill_ray.groups.log import Commit
    from fastdistill_ray.groups.store import Store
    from fastdistill_ray.tasks.problem_file import write_problems

    write_problems(made_up_problems(commits * rows), Path(folder) / "train.parquet")
    keys = [[f"p{i:07d}" for i in range(at * rows, (at + 1) * rows)] for at in range(commits)]
    Store(folder).rewrite_log(
        Commit(f"part-{at:020d}.parquet", own, [""] * rows, 1000, 100, 1.8e9 + at)
        for at, own in enumerate(keys)
    )


def recipe_tree(work: dict[str, Any]) -> dict[str, Any]:
    """An engine that needs no time works on many requests at once, a slow one on AT_ONCE."""
    model = {"model": "smollm2-135m-instruct"}
    at_once = AT_ONCE if work["seconds"] == SLOW else MANY
    engine = {
        "kind": "scripted",
        "max_num_seqs": at_once * N,
        "extra": {"seconds_per_request": work["seconds"]},
    }
    return {
        "name": "plumbing",
        "task": {"name": "word_problems"},
        "teacher": {**model, "engine": engine},
        "student": model,
        "objective": {"kind": "advdistill"},
        "sampling": {"n": N, "max_new_tokens": 128},
        "selection": {"min_correct": 0},
        "pools": {"teacher": {"workers": work["actors"], "cpus": 0.5}, "judges": {"cpus": 0.5}},
    }


def start_cluster(nodes: int, actors: int) -> Any:
    import ray

    cpus = {"num_cpus": actors + 4, "object_store_memory": 300 * 2**20}
    if not nodes:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **cpus,
        )
        return None
    from ray.cluster_utils import Cluster

    share = {**cpus, "num_cpus": math.ceil(actors / nodes) + 2}
    cluster = Cluster(initialize_head=True, head_node_args=share)
    for _ in range(nodes - 1):
        cluster.add_node(**share)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    return cluster


class Driver:
    """Resident memory and CPU time of this process, twice a second."""

    def __enter__(self) -> "Driver":
        self.seen: list[tuple[float, float, float]] = []  # moment, MiB, seconds of CPU
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        process = psutil.Process(os.getpid())
        while not self.stop.wait(0.5):
            spent = sum(process.cpu_times()[:2])
            self.seen.append((time.time(), process.memory_info().rss / 2**20, spent))

    def at(self, moment: float) -> tuple[float, float]:
        """MiB, seconds of CPU."""
        return min(self.seen, key=lambda one: abs(one[0] - moment))[1:]


def times(out: Path, work: dict[str, Any], driver: Driver) -> dict[str, Any]:
    from fastdistill_ray.groups.store import Store

    parts = [
        (time, rows)
        for commit in Store(out).commits()
        for _, rows, time in commit.parts or [("", len(commit.keys), commit.time)]
    ]
    moments, rows = (np.array(column) for column in zip(*parts, strict=True))
    assert rows.sum() == work["problems"]
    done = np.cumsum(rows)
    edges = np.interp(np.linspace(done[0], done[-1], 11), done, moments)
    ideal = ROUNDS * work["seconds"]
    return {
        "groups_per_second": float((done[-1] - done[0]) / (moments[-1] - moments[0])),
        "tenths": [round(float((done[-1] - done[0]) / 10 / gap), 1) for gap in np.diff(edges)],
        "efficiency": ideal / float(moments[-1] - moments[0] + work["seconds"]),
        "driver_mib": [round(driver.at(moment)[0]) for moment in edges],
        "driver_mib_peak": max(rss for _, rss, _ in driver.seen),
        "driver_cpu_ms_per_group": 1000
        * (driver.at(moments[-1])[1] - driver.at(moments[0])[1])
        / float(done[-1] - done[0]),
    }


if __name__ == "__main__":
    main()
