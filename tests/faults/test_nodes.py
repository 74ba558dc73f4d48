"""Nodes that go away, as spot machines do: the run goes on where there is room, and nothing that
was done is lost or done twice."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray._common.utils import reset_ray_address
from ray.cluster_utils import Cluster
from support.groups import commits_of
from support.jobs import lines_of, tiny_recipe
from support.models import make_tiny_model

from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.driver import quiet
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.pipeline import generate_groups, prepare_problems, train_students

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MEMORY = {"object_store_memory": 100 * 2**20}


# Ranks wait for a node that comes, or go on with those that are left.
RANKS = [pytest.param(2, id="another node"), pytest.param([1, 2], id="one fewer")]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    quiet()
    head = {"num_cpus": 3, **MEMORY}
    # Hooks at exit set signal handlers, for which a node that comes in a thread is too late.
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    reset_ray_address()  # or the next job on this machine would join
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def add_spot_node(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=3, resources={"spot": 1}, **MEMORY)


def loses_a_node(
    cluster: Cluster, work: Callable[[], object], is_due: Callable[[], bool], *, another: bool
) -> None:
    """Once it is due, a spot node is gone without a word; `another`: one comes in its place."""
    over = threading.Event()
    lost: list[str] = []

    def lose() -> None:
        (node, *_) = [one for one in cluster.list_all_nodes() if not one.head]
        while not is_due():
            if over.wait(0.1):
                return
        cluster.remove_node(node, allow_graceful=False)
        lost.append(node.node_id)
        if another:
            add_spot_node(cluster)

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        work()
    finally:
        over.set()
        thread.join()
    assert lost, "the work was over before a node went away"


@pytest.mark.parametrize("ranks", RANKS)
def test_spot_nodes_that_go_away_while_groups_are_written_and_while_students_train(
    tmp_path: Path, cluster: Cluster, ranks: int | list[int]
) -> None:
    """Two engines, then two ranks, each on a spot node of its own. The engine that is left writes
    the groups of both; ranks wait for the node that comes or, where they may be fewer, do not."""
    for _ in range(2):
        add_spot_node(cluster)
    model, run_folder = make_tiny_model(str(tmp_path / "model")), tmp_path / "run"
    spot = {"workers": 2, "cpus": 1, "resources": {"spot": 1}}
    slow = {"kind": "scripted", "max_model_len": 1024, "max_num_seqs": 8}
    recipe = tiny_recipe(
        model,
        teacher={"model": model, "engine": {**slow, "extra": {"seconds_per_request": 1.0}}},
        task={"num_train": 80},
        training={"epochs": 4, "checkpoint_every": 2, "max_failures": 5},
        pools={"teacher": spot, "student": {**spot, "workers": ranks}, "judges": {"cpus": 0.5}},
    )
    run = RunFolder(run_folder, Recipe.model_validate(recipe))
    problems = prepare_problems(run)["train"]

    def keys() -> list[str]:
        return [
            key
            for folder in run_folder.glob("stages/groups/*")
            for commit in commits_of(folder)
            for key in commit["keys"]
        ]

    def steps() -> list[dict]:
        return [
            line
            for path in run_folder.glob("stages/train/*/steps.jsonl")
            for line in lines_of(path)
        ]

    def generate() -> None:
        generate_groups(run, problems)

    def train() -> None:
        train_students(run, problems)

    loses_a_node(cluster, generate, lambda: len(keys()) >= 16, another=False)
    assert len(keys()) == len(set(keys())) == 80
    add_spot_node(cluster)
    loses_a_node(cluster, train, lambda: len(steps()) >= 6, another=ranks == 2)
    assert [step["step"] for step in steps()] == list(range(len(steps())))
    for epoch in range(4):
        trained = [key for one in steps() if one["epoch"] == epoch for key in one["group_ids"]]
        assert len(trained) == len(set(trained)) and set(trained) <= set(keys())


def test_ranks_grow_with_a_node_that_comes(tmp_path: Path, cluster: Cluster) -> None:
    """One rank at first, as there is room for one; another node comes while it trains."""
    add_spot_node(cluster)
    model, run_folder = make_tiny_model(str(tmp_path / "model")), tmp_path / "run"
    engine = {"kind": "scripted", "max_model_len": 1024}
    ranks = {"workers": [1, 2], "cpus": 1, "resources": {"spot": 1}}
    recipe = tiny_recipe(
        model,
        teacher={"model": model, "engine": engine},
        task={"num_train": 80},
        training={"epochs": 60, "checkpoint_every": 20},
        pools={"student": ranks, "judges": {"cpus": 0.5}},
    )
    run = RunFolder(run_folder, Recipe.model_validate(recipe))
    problems = prepare_problems(run)["train"]
    generate_groups(run, problems)
    most, over = [0], threading.Event()

    def watch() -> None:
        while not list(run_folder.glob("stages/train/*/metrics.jsonl")):
            if over.wait(0.2):
                return
        add_spot_node(cluster)
        while not over.wait(0.5):
            most[0] = max(most[0], num_ranks())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        train_students(run, problems)
    finally:
        over.set()
        thread.join()
    assert most[0] == 2
    (steps,) = [lines_of(path) for path in run_folder.glob("stages/train/*/steps.jsonl")]
    assert [step["step"] for step in steps] == list(range(len(steps)))


def num_ranks() -> int:
    actors = ray._private.state.actors().values()
    return sum(
        "RayTrainWorker" in one["ActorClassName"] and one["State"] == "ALIVE" for one in actors
    )
