"""A driver joins the cluster that its environment names, and ends when that is lost."""

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import services

from fastdistill_ray.background import repeated
from fastdistill_ray.errors import UserError

SECONDS = 10.0  # for a head to take a connection, whatever it has to do
LOOK_SECONDS = 5.0
# After so long without its head Ray ends a driver, in the middle of whatever it does.
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"


@contextlib.contextmanager
def joined_cluster(if_lost: str) -> Iterator[None]:
    """UserError where no head answers: Ray's own client asks on for minutes. Without an address a
    local Ray starts for the time of this process. A head that is lost meanwhile ends the process
    with code 1 and a line, of which `if_lost` is the end."""
    if named := _address():
        _check_answers(named)
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False)  # ours say what matters
    except ConnectionError as error:
        raise UserError(f"RAY_ADDRESS {named}: {_first_line(error)}; name another head") from error
    if not ray.is_initialized():
        yield
        return
    head = _Watched(ray.get_runtime_context().gcs_address, if_lost)
    with repeated(head.look, LOOK_SECONDS):
        yield


class _Watched:
    """A head, and since when it does not take connections."""

    def __init__(self, address: str, if_lost: str) -> None:
        self._address, self._if_lost = address, if_lost
        self._seen = time.monotonic()
        self._patience = float(os.environ.get(RECONNECT, "60")) - 2 * LOOK_SECONDS

    def look(self) -> None:
        try:
            _connect(self._address)
            self._seen = time.monotonic()
        except OSError as error:
            silent = time.monotonic() - self._seen
            if silent > self._patience:
                line = f"error: the Ray head at {self._address} is lost, no answer for {silent:.0f}"
                print(f"{line} s ({error}); {self._if_lost}", file=sys.stderr, flush=True)  # noqa: T201
                os._exit(1)


def _address() -> str:
    """HOST:PORT as Ray would take it: of RAY_ADDRESS, else of the last head on this machine."""
    given = os.environ.get("RAY_ADDRESS", "")
    if "://" in given:
        raise UserError(
            f"RAY_ADDRESS {given}: a job joins a head at HOST:PORT, such as 127.0.0.1:6379; "
            "`fastdistill ... --address` takes that of a dashboard"
        )
    try:
        of_environment: Any = None
        return services.canonicalize_bootstrap_address(of_environment) or ""
    except (ValueError, OSError) as error:
        raise UserError(f"RAY_ADDRESS {given}: {_first_line(error)}; expected HOST:PORT") from error


def _check_answers(address: str) -> None:
    try:
        _connect(address)
    except (OSError, ValueError) as error:
        raise UserError(
            f"RAY_ADDRESS {address}: no Ray head answers there ({_first_line(error)}); start it "
            "with `ray start --head`, name another, or after a crash run `ray stop`"
        ) from error


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), SECONDS).close()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
