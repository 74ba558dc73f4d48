"""A head of our own on a machine that has no time for it."""

import threading
import time

import psutil
import pytest

from fastdistill_ray.cluster.dashboard import Dashboard
from fastdistill_ray.cluster.head import local_head

# Ray's own means to be slow on purpose: a node is registered after so many microseconds.
DELAY, SLOW = "RAY_testing_asio_delay_us", "NodeInfoGcsService.grpc_server.RegisterNode=60000000:"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_head_whose_node_is_too_slow_for_ray_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(DELAY, f"{SLOW}60000000")
    others = set(psutil.Process().children())

    def let_the_second_be() -> None:
        while not set(psutil.Process().children()) - others:
            time.sleep(0.01)
        monkeypatch.delenv(DELAY)

    threading.Thread(target=let_the_second_be, daemon=True).start()
    start = time.monotonic()
    with local_head() as head:
        assert time.monotonic() - start > 30, "the first was not slow"
        assert Dashboard(head.address).list_jobs() == []
