"""Ray's own autoscaler over nodes of this machine: they come for a phase and go once it is over."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from support.jobs import ended, lines_of, stage_folder, start_job, tiny_recipe, write_recipe
from support.models import make_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HEAD = Path(__file__).parents[1] / "support/processes/autoscaling_head.py"
KINDS = ("teaching", "training")
HEAD_TYPE = "ray.head.default"  # as the provider calls it
ROUNDS = 120  # so many that a node is idle long enough meanwhile


def config_of(port: int) -> dict[str, Any]:
    """A node of each kind at most, given back after 6 seconds of nothing."""
    node = {"CPU": 4, "object_store_memory": 100 * 2**20}
    types = {
        kind: {"resources": {**node, kind: 1}, "node_config": {}, "max_workers": 1}
        for kind in KINDS
    }
    types[HEAD_TYPE] = {"resources": {"CPU": 4, "judging": 1}, "node_config": {}, "max_workers": 0}
    address = f"{ray.util.get_node_ip_address()}:{port}"
    provider = {"type": "fake_multinode", "use_node_id_as_ip": True, "gcs_address": address}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    return {
        "cluster_name": "tests",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": HEAD_TYPE,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


@pytest.fixture
def autoscaling(tmp_path) -> Iterator[str]:
    """-> the head's address."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps(config_of(port)))
    command = [sys.executable, str(HEAD), str(port), str(file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            ray.shutdown()
            process.communicate()


def nodes() -> set[str]:
    """Kinds of the nodes that are alive."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return {kind for kind in KINDS if any(kind in resources for resources in alive)}


def test_a_node_comes_for_the_phase_that_needs_it_and_goes_after_it(tmp_path, autoscaling):
    on = {kind: {"cpus": 1.0, "resources": {kind: 0.5}} for kind in KINDS}
    recipe = tiny_recipe(
        make_tiny_model(str(tmp_path / "model")),
        task={"num_train": 4},
        sampling={"n": 2, "max_new_tokens": 12},
        selection={"min_correct": 0},
        objective={"kind": "jsd"},
        rounds={"count": ROUNDS, "n": 2},
        training={"groups_per_step": 2, "max_seq_len": 256},
        # The first student learns from its own texts; the teacher writes for the second.
        compare={"students": [{"kind": "sft", "on": "all"}], "baselines": []},
        pools={
            "teacher": on["teaching"],
            "evaluation": on["teaching"],
            "writer": on["training"],
            "student": on["training"],
            "judges": {"cpus": 0.25, "resources": {"judging": 0.1}},
            "autoscaling": True,
        },
    )
    run = tmp_path / "run"
    ray.init(address=autoscaling, log_to_driver=False, logging_level="ERROR")
    assert nodes() == set()

    seen: list[tuple[set[str], int]] = []  # kinds of nodes, steps that are trained
    job = start_job("distill", write_recipe(tmp_path, recipe), run, autoscaling)
    with ended(job, run):
        while job.poll() is None:
            trained = lines_of(stage_folder(run, "train", "jsd") / "metrics.jsonl")
            seen.append((nodes(), len(trained)))
            time.sleep(0.1)
        assert job.returncode == 0
    wanted = iter(
        [
            lambda kinds, steps: "teaching" in kinds and steps == 0,
            lambda kinds, steps: kinds == {"training"} and 0 < steps < ROUNDS,
            lambda kinds, steps: "teaching" in kinds and steps == ROUNDS,
        ]
    )
    phase = next(wanted)
    for kinds, steps in seen:
        if phase and phase(kinds, steps):
            phase = next(wanted, None)
    assert phase is None, seen
    while nodes():
        time.sleep(0.1)
