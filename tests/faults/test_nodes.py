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
from support.jobs import lines_of, stage_folder, tiny_recipe
from support.models import make_tiny_model

from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.driver import quiet
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.pipeline import generate_groups, prepare_problems, train_students

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MEMORY = {"object_store_memory": 100 * 2**20}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    quiet()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, **MEMORY})
    reset_ray_address()  # or the next job on this machine would join
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def replace_when(cluster: Cluster, is_due: Callable[[], bool], over: threading.Event) -> None:
    """Once it is due, a spot node is gone without a word; another comes."""
    (node, *_) = [one for one in cluster.list_all_nodes() if not one.head]
    while not is_due():
        if over.wait(0.1):
            return
    cluster.remove_node(node, allow_graceful=False)
    add_spot_node(cluster)


def add_spot_node(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=3, resources={"spot": 1}, **MEMORY)


def test_spot_nodes_that_go_away_while_groups_are_written_and_while_students_train(
    tmp_path: Path, cluster: Cluster
) -> None:
    """Two engines, then two ranks, each on a spot node of its own."""
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
        pools={"teacher": spot, "student": spot, "judges": {"cpus": 0.5}},
    )
    run = RunFolder(run_folder, Recipe.model_validate(recipe))
    problems = prepare_problems(run)["train"]
    over = threading.Event()

    def groups() -> int:
        found = list(run_folder.glob("stages/groups/*"))
        return sum(len(one["keys"]) for one in commits_of(found[0])) if found else 0

    def steps() -> list[dict]:
        found = list(run_folder.glob("stages/train/*/steps.jsonl"))
        return lines_of(found[0]) if found else []

    for work, is_due in (
        (generate_groups, lambda: groups() >= 16),
        (train_students, lambda: len(steps()) >= 6),
    ):
        killer = threading.Thread(target=replace_when, args=(cluster, is_due, over), daemon=True)
        killer.start()
        work(run, problems)
        assert not killer.is_alive(), "no node went away"
        killer.join()
    keys = [
        key for commit in commits_of(stage_folder(run_folder, "groups")) for key in commit["keys"]
    ]
    assert len(keys) == len(set(keys)) == 80
    assert [step["step"] for step in steps()] == list(range(len(steps())))
    for epoch in range(4):
        trained = [key for one in steps() if one["epoch"] == epoch for key in one["group_ids"]]
        assert len(trained) == len(set(trained)) and set(trained) <= set(keys)
