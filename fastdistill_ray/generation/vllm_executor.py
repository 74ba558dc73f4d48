"""How vLLM waits for its workers on the CPU; imported only in its scheduler's process."""

import time
from functools import partial
from typing import Any

from vllm.v1.executor.multiproc_executor import MultiprocExecutor

SPIN_SECONDS = 0.001  # vLLM's queue may miss a notification that arrives within this time
SHARE, MOST_MS = 0.05, 50  # poll again after 5 % of the time waited so far, at most every 50 ms


class PatientExecutor(MultiprocExecutor):
    """Sleeps until a step's output is there; named by the argument `distributed_executor_backend`.

    vLLM's own looks again and again for a second, which takes all that is left of a core. Whatever
    else runs on the machine is then put on the cores that compute.
    """

    def _init_executor(self) -> None:
        super()._init_executor()
        for queue in self.response_mqs:
            condition = queue._spin_condition
            condition.busy_loop_s = SPIN_SECONDS
            condition.wait = partial(wait, condition, condition.wait)


def wait(condition: Any, until_told: Any, timeout_ms: int | None = None) -> None:
    """Waits to be told, and polls: vLLM's queue may miss what follows another answer at once."""
    waited_ms = 1000 * (time.monotonic() - condition.last_read)
    until_told(timeout_ms=max(1, min(MOST_MS, round(SHARE * waited_ms), timeout_ms or MOST_MS)))
