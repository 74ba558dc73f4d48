"""One writer of a run folder: a note of who writes, kept fresh while it lives.

    RUN/lease/<id>.json

Whoever wants to write puts a note, then looks for others; it holds the lease only where, after its
own was there, no other was. So no two hold it, whatever the clocks say, on any storage whose
listing shows what was put. The owner renews its note; one whose process is gone, or which is not
renewed while another watches, is dead and is taken over. A writer that was taken for dead and
wakes up finds its note gone and stops; what it logs meanwhile does not count (see groups/log.py).
"""

import contextlib
import getpass
import itertools
import json
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fastdistill_ray.background import repeated
from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.place import Place

logger = logging.getLogger(__name__)

LEASES = "lease"
RENEW_SECONDS = 10.0
DEAD_SECONDS = 30.0  # without renewal, as watched by another
# Environment of a submitted job: its id, and the dashboard that knows it.
JOB, DASHBOARD = "FASTDISTILL_JOB", "FASTDISTILL_DASHBOARD"


class Note(NamedTuple):
    user: str
    host: str
    namespace: str  # of process ids on that host
    pid: int
    started: str  # of the process: ids are used again
    since: float  # seconds of its own clock
    job: str
    dashboard: str
    is_holding: bool = False
    renewed: int = 0  # times

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        job = f", job {self.job}" if self.job else ""
        return f"{self.user} on {self.host}, process {self.pid}{job}, since {since}"


@contextlib.contextmanager
def lease(run: Place) -> Iterator[None]:
    """Holds the run folder for the time of the block; UserError where another driver writes it."""
    folder = run / LEASES
    file, note = _acquire(folder, f"{uuid.uuid4().hex[:12]}.json")
    notes = (note._replace(renewed=times) for times in itertools.count(note.renewed + 1))
    try:
        with repeated(lambda: _renew(file, next(notes)), RENEW_SECONDS):
            yield
    finally:
        file.unlink()
        _remove_empty(folder)


def check_free(run: Place) -> None:
    """UserError where a driver that lives writes the run; waits where that must be watched."""
    others = _living(run / LEASES, "")
    if others:
        raise _taken(run, next(iter(others.values())))


def holder(run: Place) -> Note | None:
    """Who writes the run folder, as its note says; one of another machine may be dead."""
    notes = _notes(run / LEASES).values()
    return next((note for note in notes if note.is_holding and not _is_gone(note)), None)


def _acquire(folder: Place, name: str) -> tuple[Place, Note]:
    note = _own_note()

    def renew() -> None:
        """While others are watched: they may watch this one."""
        nonlocal note
        note = note._replace(renewed=note.renewed + 1)
        (folder / name).put(json.dumps(note._asdict()))

    for _ in range(100):
        renew()
        others = _living(folder, name, renew)
        if not others:
            note = note._replace(is_holding=True)
            (folder / name).put(json.dumps(note._asdict()))
            return folder / name, note
        (folder / name).unlink()
        for other in others.values():
            if other.is_holding:
                _remove_empty(folder)
                raise _taken(folder.parent, other)
        time.sleep(random.uniform(0.1, 1.0))  # another begins at this moment
    raise UserError(f"{folder}: drivers hold each other up; remove what is in it if none runs")


def _taken(run: Place, note: Note) -> UserError:
    follow = f"follow it: fastdistill attach {run}; " if note.job else ""
    stop = f"kill {note.pid} there"
    if note.job:
        stop = f"RAY_AUTH_MODE=token ray job stop {note.job} --address {note.dashboard}"
    return UserError(f"--run-dir {run}: {note} writes it; {follow}stop it: {stop}")


def _living(
    folder: Place, own: str, meanwhile: Callable[[], None] = lambda: None
) -> dict[str, Note]:
    """Notes of others whose driver lives; the others are removed."""
    notes = {name: note for name, note in _notes(folder).items() if name != own}
    unsure = {}
    for name, note in notes.items():
        if _is_gone(note):
            _bury(folder / name, note, "its process is gone")
        elif not _is_of_here(note):
            unsure[name] = note
    if unsure:
        for note in unsure.values():
            logger.info("--run-dir %s: written by %s; is it alive?", folder.parent, note)
        deadline = time.monotonic() + DEAD_SECONDS
        while time.monotonic() < deadline and _same(folder, unsure):
            time.sleep(min(1.0, DEAD_SECONDS / 10))
            meanwhile()
        for name, note in _same(folder, unsure).items():
            _bury(folder / name, note, f"not renewed for {DEAD_SECONDS:.0f} s")
    return {name: note for name, note in _notes(folder).items() if name != own}


def _is_of_here(note: Note) -> bool:
    return (note.host, note.namespace) == _host()


def _is_gone(note: Note) -> bool:
    """Whether it is known to be: its process was one of this machine."""
    return _is_of_here(note) and _started(note.pid) != note.started


def _same(folder: Place, notes: dict[str, Note]) -> dict[str, Note]:
    """Those that are as they were."""
    now = _notes(folder)
    return {name: note for name, note in notes.items() if now.get(name) == note}


def _bury(file: Place, note: Note, why: str) -> None:
    logger.info("--run-dir %s: taken over from %s, %s", file.parent.parent, note, why)
    file.unlink()


def _notes(folder: Place) -> dict[str, Note]:
    found = {}
    for file in folder.list():
        try:
            found[file.name] = Note(**json.loads(file.read_text()))
        except FileNotFoundError:  # released since they were listed
            continue
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{file}: not the note of a driver ({error}); remove it if none writes the run"
            ) from error
    return found


def _renew(file: Place, note: Note) -> None:
    """A driver that was taken for dead ends here: what it paid for since is found by the other."""
    try:
        if not file.is_file():
            logger.error(
                "error: --run-dir %s: another driver has taken this one for dead and goes on with "
                "the run; this one stops",
                file.parent.parent,
            )
            os._exit(1)
        file.put(json.dumps(note._asdict()))
    except OSError as error:
        logger.warning("%s: cannot be renewed now: %s", file, error)


def _own_note() -> Note:
    host, namespace = _host()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    job, dashboard = os.environ.get(JOB, ""), os.environ.get(DASHBOARD, "")
    pid = os.getpid()
    return Note(user, host, namespace, pid, _started(pid), time.time(), job, dashboard)


def _host() -> tuple[str, str]:
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = ""
    return socket.gethostname(), namespace


def _started(pid: int) -> str:
    """When a process of this machine began, as its kernel counts; "" of none."""
    try:
        stat = (Place("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _remove_empty(folder: Place) -> None:
    if folder.is_local:
        with contextlib.suppress(OSError):
            folder.local.rmdir()
