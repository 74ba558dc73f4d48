"""What Ray knows of how an actor's last process ended."""

from typing import Any, cast

import ray
from ray._private import state  # the public state API asks a dashboard, which a head may not have
from ray._raylet import WorkerID
from ray.core.generated import common_pb2, gcs_pb2

# Their names are made as they are imported.
COMMON, GCS = cast(Any, common_pb2), cast(Any, gcs_pb2)


def was_short_of_memory() -> bool:
    """Whether Ray ended the process that was this actor before, as its node was short of memory.

    False in an actor's first process, and outside of an actor.
    """
    actor = ray.get_runtime_context().get_actor_id()
    if actor is None:
        return False
    known = state.state._connect_and_get_accessor()
    mine = known.get_actor_info(ray.ActorID.from_hex(actor))
    processes = GCS.ActorTableData.FromString(mine).previous_incarnations if mine else []
    if not processes:
        return False
    last = known.get_worker_info(WorkerID(processes[-1].worker_id))
    return bool(last) and (
        GCS.WorkerTableData.FromString(last).exit_type == COMMON.NODE_OUT_OF_MEMORY
    )
