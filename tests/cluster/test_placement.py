"""Two simulated nodes: each pool lands where its resources and labels say."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
import ray
from jobs_for_tests import tiny_recipe
from models_for_tests import make_tiny_model
from ray.cluster_utils import Cluster
from watch_for_tests import watching

from fastdistill_ray import doctor
from fastdistill_ray.config import Recipe
from fastdistill_ray.driver import quiet
from fastdistill_ray.pipeline import (
    choose_students,
    evaluate_models,
    generate_groups,
    prepare_problems,
    train_students,
)
from fastdistill_ray.run_dir import RunDir

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
NAMES = ("Asking", "GroupWriter", "AnswerWriter", "TrainWorker")


def workers(raylets: dict[str, int]) -> Iterator[tuple[str, int, str]]:
    """(node, pid, name) of the workers of each raylet, seen from outside by their titles."""
    for node, raylet in raylets.items():
        for worker in psutil.Process(raylet).children():
            try:
                title = worker.cmdline()[0]
            except (psutil.NoSuchProcess, IndexError):
                continue
            yield from ((node, worker.pid, name) for name in NAMES if name in title)


@contextlib.contextmanager
def started(raylets: dict[str, int]) -> Iterator[dict[str, set[str]]]:
    """Name of a worker -> the nodes that started one inside the block."""
    earlier = {pid for _, pid, _ in workers(raylets)}  # actors of before take time to end
    seen: dict[str, set[str]] = {name: set() for name in NAMES}

    def look() -> None:
        for node, pid, name in workers(raylets):
            if pid not in earlier:
                seen[name].add(node)

    with watching(look, 0.1):
        yield seen


@pytest.fixture
def cluster():
    quiet()
    memory = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **memory})
    nodes = {
        "writing": cluster.add_node(
            num_cpus=4, resources={"writers": 1}, labels={"part": "a"}, **memory
        ),
        "training": cluster.add_node(num_cpus=4, labels={"part": "b"}, **memory),
    }
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    raylets = {name: node.all_processes["raylet"][0].process.pid for name, node in nodes.items()}
    yield cluster, raylets
    ray.shutdown()
    cluster.shutdown()


def test_pools_land_on_the_nodes_their_resources_and_labels_name(tmp_path, cluster):
    _, raylets = cluster
    model = make_tiny_model(str(tmp_path / "model"))
    recipe = Recipe.model_validate(
        tiny_recipe(
            model,
            task={"num_train": 12},
            selection={"min_correct": 0},
            training={"epochs": 1},
            pools={
                "teacher": {"resources": {"writers": 1.0}},
                "judges": {"labels": {"part": "a"}},
                "student": {"labels": {"part": "!a"}, "cpus": 3.0},
                "evaluation": {"labels": {"part": "in(b, c)"}},
            },
        )
    )
    run = RunDir(str(tmp_path / "run"), recipe)
    problems = prepare_problems(recipe, run)
    doctor.check_pools(recipe, ray.cluster_resources())
    doctor.check_labels(recipe, [node["Labels"] for node in ray.nodes()])
    with started(raylets) as writing:
        generate_groups(recipe, run, problems["train"])
    assert writing["Asking"] == writing["GroupWriter"] == {"writing"}
    with started(raylets) as training:
        trials = train_students(recipe, run, len(problems["train"]))
        chosen = choose_students(recipe, run, trials, problems["validation"])
        evaluate_models(recipe, run, chosen, problems["test"])
    assert training["TrainWorker"] == training["Asking"] == {"training"}
    assert training["AnswerWriter"] == {"writing"}


def test_run_folder_that_a_node_does_not_see_is_refused(tmp_path, cluster):
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a node of its own mounts needs root")
    doctor.check_shared_folder(tmp_path)
    ray_command = f"{os.path.dirname(sys.executable)}/ray"
    start = (
        f"mount -t tmpfs none {tmp_path} && exec {ray_command} start --block --num-cpus=1 "
        f"--address={cluster[0].address} --object-store-memory={100 * 2**20}"
    )
    blind = subprocess.Popen(["unshare", "-m", "sh", "-c", start], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while sum(node["Alive"] for node in ray.nodes()) < 4 and time.monotonic() < deadline:
            time.sleep(0.2)
        with pytest.raises(ValueError, match=r"--run-dir .* and 0 others do not see this folder"):
            doctor.check_shared_folder(tmp_path)
    finally:
        blind.terminate()
        blind.wait(timeout=30)
    assert not list(tmp_path.glob(".probe-*"))
