"""How full Ray's memory for objects is, through which answers come back from engines."""

import contextlib

import ray
from ray._private.internal_api import node_stats  # no public way in the pinned Ray 2.60
from ray.exceptions import RayError

FULL = 0.95


def full_nodes() -> list[str]:
    """A few words on each node whose memory for objects is full. Ray then moves objects to a disk;
    where that is full too, whatever is to be put there waits, without a word of Ray's."""
    found = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        address, port = node["NodeManagerAddress"], node["NodeManagerPort"]
        with contextlib.suppress(RayError, RuntimeError, OSError):  # a node that is going away
            store = node_stats(address, port, include_memory_info=False).store_stats
            used, size = store.object_store_bytes_used, store.object_store_bytes_avail
            if used > FULL * size:
                found.append(f"{used >> 20} of {size >> 20} MiB of node {address}")
    return found
