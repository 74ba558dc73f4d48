"""Two simulated nodes, each with a GPU that none looks for: each pool lands where its resources
and labels say."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from support.jobs import tiny_recipe
from support.models import make_tiny_model

from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run import doctor
from fastdistill_ray.run.driver import quiet
from fastdistill_ray.run.folder import RunDir
from fastdistill_ray.run.pipeline import (
    choose_students,
    evaluate_models,
    generate_groups,
    prepare_problems,
    train_students,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
NAMES = ("Asking", "GroupWriter", "AnswerWriter", "TrainWorker")


class NodeWatch:
    """Which workers each node's raylet has started, seen from outside by their process titles."""

    def __init__(self, raylets: dict[str, int]) -> None:
        self.raylets = raylets
        self.earlier = {pid for _, pid, _ in self._workers()}  # actors of before take time to end
        self.seen: dict[str, set[str]] = {name: set() for name in NAMES}
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "NodeWatch":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.stop.wait(0.1):
            for node, pid, name in self._workers():
                if pid not in self.earlier:
                    self.seen[name].add(node)

    def _workers(self) -> Iterator[tuple[str, int, str]]:
        for node, raylet in self.raylets.items():
            for worker in psutil.Process(raylet).children():
                try:
                    title = worker.cmdline()[0]
                except (psutil.NoSuchProcess, IndexError):
                    continue
                yield from ((node, worker.pid, name) for name in NAMES if name in title)


@pytest.fixture
def cluster():
    quiet()
    memory = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **memory})
    nodes = {
        "writing": cluster.add_node(
            num_cpus=4, num_gpus=1, resources={"writers": 1}, labels={"part": "a"}, **memory
        ),
        "training": cluster.add_node(num_cpus=4, num_gpus=1, labels={"part": "b"}, **memory),
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
                "teacher": {"resources": {"writers": 1.0}, "gpus": 1.0},
                "judges": {"labels": {"part": "a"}},
                "student": {"labels": {"part": "!a"}, "cpus": 3.0},
                "evaluation": {"labels": {"part": "in(b, c)"}, "gpus": 1.0},
            },
        )
    )
    run = RunDir(str(tmp_path / "run"), recipe)
    problems = prepare_problems(recipe, run)
    doctor.check_pools(recipe, ray.cluster_resources())
    doctor.check_labels(recipe, [node["Labels"] for node in ray.nodes()])
    with NodeWatch(raylets) as writing:
        generate_groups(recipe, run, problems["train"])
    assert writing.seen["Asking"] == writing.seen["GroupWriter"] == {"writing"}
    with NodeWatch(raylets) as training:
        trials = train_students(recipe, run, len(problems["train"]))
        chosen = choose_students(recipe, run, trials, problems["validation"])
        evaluate_models(recipe, run, chosen, [problems["test"]])
    assert training.seen["TrainWorker"] == training.seen["Asking"] == {"training"}
    assert training.seen["AnswerWriter"] == {"writing"}


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
