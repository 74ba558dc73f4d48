"""Ray heads that run on this machine, and which of them a job may join."""

import os
from typing import NamedTuple

import psutil
from ray.dashboard.consts import DASHBOARD_METRIC_PORT
from ray.exceptions import AuthenticationError

from fastdistill_ray.cluster.dashboard import NOT_ANSWERING, Dashboard

OURS = "FASTDISTILL_HEAD"  # in the environment of every head that fastdistill starts
DASHBOARD = "ray/dashboard/dashboard.py"  # the process of a head that takes jobs
PATIENCE_SECONDS = 5.0


class Found(NamedTuple):
    """The address of the head to join, or "" and why none is."""

    address: str
    reason: str = ""


def find_head() -> Found:
    """The only head of this user that answers to this user's token. A job of a batch system has
    a folder of temporary files of its own: heads of others are not meant."""
    others, mine = [], []
    for process in psutil.process_iter(["cmdline"]):
        if any(word.endswith(DASHBOARD) for word in process.info["cmdline"] or ()):
            reason = _why_not_ours_to_join(process)
            others.append(reason) if reason else mine.append(process)
    if len(mine) > 1:
        names = ", ".join(sorted(_address(process) or "no address" for process in mine))
        return Found("", f"{len(mine)} heads ({names}), name one with --address")
    if not mine:
        return Found("", ", ".join(sorted(set(others))))
    address = _address(mine[0])
    try:
        Dashboard(address, PATIENCE_SECONDS).list_jobs()
    except AuthenticationError:
        return Found("", f"the head at {address}, which has another token")
    except NOT_ANSWERING:
        which = f"the head at {address}, which" if address else "a head that begins or ends and"
        return Found("", f"{which} takes no jobs now")
    return Found(address)


def _why_not_ours_to_join(process: psutil.Process) -> str:
    """ "" for a head of this user that stays when its driver ends."""
    try:
        if process.uids().real != os.getuid():
            return "a head of another user"
        environment = process.environ()
    except psutil.Error:  # ended, or hidden from us
        return "a head that cannot be looked at"
    if OURS in environment:
        return "a head that ends with another fastdistill command"
    folders = ("RAY_TMPDIR", "TMPDIR")
    if any(environment.get(name) != os.environ.get(name) for name in folders):
        return "a head with another TMPDIR"
    return ""


def _address(process: psutil.Process) -> str:
    """Where it listens: the port it was asked to take may have been taken."""
    try:
        listening = [one for one in process.net_connections("tcp") if one.status == "LISTEN"]
    except psutil.Error:
        return ""
    # Its metrics have a port of their own, and psutil gives both in any order.
    own = [one.laddr for one in listening if one.laddr.port != DASHBOARD_METRIC_PORT]
    if not own:
        return ""
    host, port = own[0]
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
