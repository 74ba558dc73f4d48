"""Runs a job's script, with its arguments, on a local Ray of its own that ends with it."""

import runpy
import sys
from typing import Any

import ray

TIMES = 4
start = ray.init
OPTIONS: dict[str, Any] = {
    "address": "local",
    "num_cpus": 8,
    "include_dashboard": False,
    "object_store_memory": 300 * 2**20,
}


def init(**options: Any) -> Any:
    """Ray gives up where its node is not there within 30 s, as on a machine that is busy."""
    for _ in range(TIMES - 1):
        try:
            return start(**OPTIONS, **options)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    return start(**OPTIONS, **options)


if __name__ == "__main__":
    ray.init = init
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
