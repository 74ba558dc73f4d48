"""A Ray head that outlives its drivers, without a note that others on this machine would follow."""

import contextlib
import os
from collections.abc import Iterator

import ray
from ray._private.node import Node
from ray._private.parameter import RayParams

# What no recipe names and an endpoint's actor reads from the environment of its node.
KEY_VARIABLE, KEY = "KEY_OF_TESTS", "sk-of-the-tests"


@contextlib.contextmanager
def local_head(objects_mib: int = 500, spill_to: str | None = None) -> Iterator[str]:
    """8 logical CPUs and 2 GPUs that none looks for; -> its address. `spill_to`: the folder for
    objects that its memory has no room for, else one of its own."""
    before = os.environ.get(KEY_VARIABLE)
    os.environ[KEY_VARIABLE] = KEY
    parameters = RayParams(
        num_cpus=8,
        num_gpus=2,
        include_dashboard=False,
        object_store_memory=objects_mib * 2**20,
        object_spilling_directory=spill_to,
        min_worker_port=0,
        max_worker_port=0,
    )
    node = Node(parameters, head=True, shutdown_at_exit=True, spawn_reaper=True)
    try:
        yield node.gcs_address
    finally:
        node.kill_all_processes(check_alive=False, allow_graceful=True)
        os.environ.pop(KEY_VARIABLE, None)  # a test that had one of its own took it along
        if before is not None:  # another head still runs
            os.environ[KEY_VARIABLE] = before


def engines_started(address: str) -> int:
    """How many actors that ask engines the head has had so far, restarts of one not counted."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        actors = ray._private.state.actors().values()
        return sum("Asking" in actor["ActorClassName"] for actor in actors)
    finally:
        ray.shutdown()
