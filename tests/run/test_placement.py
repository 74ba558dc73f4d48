"""Two simulated nodes, each with a GPU that none looks for: each pool lands where its resources
and labels say."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import ray
from ray._common.utils import reset_ray_address
from ray.cluster_utils import Cluster
from support.jobs import tiny_recipe
from support.models import make_tiny_model

from fastdistill_ray.evaluation.results import total
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run import doctor, placement
from fastdistill_ray.run.driver import quiet
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.pipeline import (
    choose_students,
    evaluate_models,
    generate_groups,
    prepare_problems,
    train_students,
)
from fastdistill_ray.storage.place import Place

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A small head, `writing` and `training`."""
    quiet()
    memory = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **memory})
    reset_ray_address()  # or the next job on this machine would join
    cluster.add_node(
        num_cpus=4, num_gpus=1, resources={"writers": 1}, labels={"part": "a"}, **memory
    )
    cluster.add_node(num_cpus=4, num_gpus=1, labels={"part": "b"}, **memory)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def places() -> dict[str, tuple[str, str]]:
    """All actors so far: id -> what it does and the part its node is labelled with."""
    parts = {node["NodeID"]: node["Labels"].get("part", "") for node in ray.nodes()}
    names = ("Asking", "RowWriter", "TrainWorker")
    return {
        actor: (name, parts[found["Address"]["NodeID"]])
        for actor, found in ray._private.state.actors().items()
        for name in names
        if name in found["ActorClassName"]
    }


@pytest.mark.slow
def test_pools_land_on_the_nodes_their_resources_and_labels_name(tmp_path, nodes):
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
    run = RunFolder(tmp_path / "run", recipe)
    problems = prepare_problems(run)
    placement.check_pools(recipe, ray.cluster_resources())
    placement.check_labels(recipe, ray.nodes())
    generate_groups(run, problems["train"])
    writing = places()
    assert set(writing.values()) == {("Asking", "a"), ("RowWriter", "a")}
    trials = train_students(run, problems["train"])
    chosen = choose_students(run, trials, problems["validation"])
    evaluate_models(run, chosen, [problems["test"]])
    later = {place for actor, place in places().items() if actor not in writing}
    assert later == {("TrainWorker", "b"), ("Asking", "b"), ("RowWriter", "a")}


@pytest.mark.slow
def test_writer_scorer_and_trainer_of_rounds_land_in_their_pools_and_leave_them(tmp_path, nodes):
    model = make_tiny_model(str(tmp_path / "model"))
    engine = {"kind": "vllm", "max_model_len": 256, "max_num_seqs": 8, "dtype": "float32"}
    engine |= {"enforce_eager": True, "cpu_kv_cache_gib": 1}
    recipe = Recipe.model_validate(
        tiny_recipe(
            model,
            task={"num_train": 4},
            teacher={"model": model, "engine": engine},
            scorer={"model": model, "engine": engine},
            sampling={"n": 2, "max_new_tokens": 12},
            selection={"min_correct": 0},
            objective={"kind": "jsd"},
            rounds={"count": 2, "n": 2},
            training={"groups_per_step": 2, "max_seq_len": 256},
            compare={"students": [{"kind": "topk_kl", "k": 4}]},
            pools={
                "teacher": {"labels": {"part": "b"}},
                "scorer": {"resources": {"writers": 1.0}},
                "writer": {"labels": {"part": "a"}},
                "judges": {"labels": {"part": "b"}},
                "student": {"labels": {"part": "b"}},
            },
        )
    )
    run = RunFolder(tmp_path / "run", recipe)
    problems = prepare_problems(run)
    before = places()
    generate_groups(run, problems["train"])
    generating = places()
    assert new(generating, before) == {("Asking", "b"), ("RowWriter", "b")}
    trials = train_students(run, problems["train"])
    assert [trial.student for trial in trials] == ["jsd", "topk_kl"]
    written, scored = (total(trial.costs) for trial in trials)
    assert written["written_tokens"] > 0 and scored["scored_tokens"] > 0
    # Both that write for the student and that score its teacher's texts are of node a.
    later = {("Asking", "a"), ("RowWriter", "b"), ("TrainWorker", "b")}
    assert new(places(), generating) == later
    alive = {
        actor
        for actor, found in ray._private.state.actors().items()
        if found["State"] == "ALIVE" and actor in places()
    }
    assert not alive, "what a phase is done with stands on no node"


def new(found: dict[str, tuple[str, str]], before: dict[str, tuple[str, str]]) -> set:
    return {place for actor, place in found.items() if actor not in before}


@pytest.mark.slow
def test_run_folder_that_a_node_does_not_see_is_refused(tmp_path, nodes):
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a node of its own mounts needs root")
    doctor.check_shared_folder(Place(tmp_path))
    ray_command = f"{os.path.dirname(sys.executable)}/ray"
    start = (
        f"mount -t tmpfs none {tmp_path} && exec {ray_command} start --block --num-cpus=1 "
        f"--address={nodes.address} --object-store-memory={100 * 2**20}"
    )
    blind = subprocess.Popen(["unshare", "-m", "sh", "-c", start], stdout=subprocess.DEVNULL)
    try:
        while sum(node["Alive"] for node in ray.nodes()) < 4:
            assert blind.poll() is None
            time.sleep(0.2)
        with pytest.raises(ValueError, match=r"--run-dir .* and 0 others do not see this folder"):
            doctor.check_shared_folder(Place(tmp_path))
    finally:
        blind.terminate()
        blind.wait()
    assert not list(tmp_path.glob(".probe-*"))
