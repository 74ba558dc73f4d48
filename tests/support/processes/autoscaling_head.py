"""A Ray head whose autoscaler starts and ends nodes on this machine, until its input ends:
`autoscaling_head.py PORT FILE`. FILE is a cluster's configuration with Ray's provider
`fake_multinode`."""

import os
import sys

# Before Ray is imported, which reads them then.
HEAD_ID = f"{'f' * 51}00000"  # as that provider knows the node that it did not start
os.environ |= {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    "RAY_enable_autoscaler_v2": "0",
}

from ray._private.node import Node  # noqa: E402
from ray._private.parameter import RayParams  # noqa: E402

if __name__ == "__main__":
    node = Node(
        RayParams(
            gcs_server_port=int(sys.argv[1]),
            autoscaling_config=sys.argv[2],
            num_cpus=4,
            resources={"judging": 1},
            include_dashboard=False,
            object_store_memory=200 * 2**20,
            min_worker_port=0,
            max_worker_port=0,
        ),
        head=True,
        shutdown_at_exit=True,
        spawn_reaper=True,
    )
    print(node.gcs_address, flush=True)
    sys.stdin.read()
    node.kill_all_processes(check_alive=False, allow_graceful=True)
