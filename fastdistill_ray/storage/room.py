"""When a file system refuses to write: what refused, why, and how much room there is."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from fastdistill_ray.storage.place import Place

GIB = 2**30
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)  # of a file: others may be of a process
# Libraries written in Rust and C++ tell it in words.
WORDS = {os.strerror(number): number for number in (*FULL, errno.EROFS)}


def refusal(error: BaseException) -> OSError | None:
    """The file system's own error in what was raised, which Ray may have wrapped; None where it is
    something else."""
    for one in causes(error):
        if isinstance(one, OSError) and (
            one.errno in FULL or (one.errno in REFUSED and one.filename is not None)
        ):
            return one
    for one in causes(error):
        for words, number in WORDS.items():
            if words in str(one):
                return OSError(number, words)
    return None


def explain(error: OSError, folder: Place, needed: float = 0.0) -> str:
    """What failed, of which file or else of the folder, and where a disk is full how much is free
    and, where that is known, about how many bytes are `needed`."""
    file = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    where = str(file or folder)
    text = f"{where}: {os.strerror(error.errno or 0)}"
    if error.errno not in FULL:
        return f"{text}; let it be written, or choose another folder"
    place = file or (folder.local if folder.is_local else Path(os.path.abspath(".")))
    text += f"; {gib(free(place))} free"
    if needed:
        text += f", the rest of the run needs about {gib(needed)}"
    return f"{text}; make room, or choose another folder"


def free(path: Path) -> int:
    """Bytes that may still be written where a file or folder is, or is to be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


def causes(error: BaseException | None, seen: set[int] | None = None) -> Iterator[BaseException]:
    """What was raised and all that led to it, innermost first: Ray keeps what a task, a worker or a
    controller raised in fields of its own."""
    seen = set() if seen is None else seen
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    workers = getattr(error, "worker_failures", None)
    inner = [
        *(getattr(error, name, None) for name in ("cause", "controller_failure")),
        *(workers.values() if isinstance(workers, dict) else ()),
        *(error.__cause__, error.__context__),
    ]
    for one in inner:
        if isinstance(one, BaseException):
            yield from causes(one, seen)
    yield error
