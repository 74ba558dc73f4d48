"""Whole folders: moved, copied, written here for a bucket, read here from a bucket."""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from pyarrow import fs

from fastdistill_ray.storage.place import HIDDEN, Place, make_folder, sync, sync_tree


def move(source: Place, target: Place) -> None:
    """A file or folder; in a bucket file by file, the target's first."""
    if source.is_local and target.is_local:
        make_folder(target.local.parent)
        os.replace(source, target)
        sync(target.local.parent)
        sync(source.local.parent)
        return
    copy(source, target)
    source.remove_tree() if source.is_dir() else source.unlink()


def copy(source: Place, target: Place) -> None:
    """A file or folder. On one disk the target appears whole, made of hard links where the file
    system has them: files of a run are never written again. In a bucket `config.json` is last."""
    if source.is_local and target.is_local:
        temporary = target.local.with_name(f"{HIDDEN}{target.name}.{uuid.uuid4().hex}")
        make_folder(temporary.parent)
        if source.is_dir():
            shutil.copytree(source, temporary, copy_function=_link_or_copy)
        else:
            _link_or_copy(str(source), str(temporary))
        sync_tree(temporary)
        target.remove_tree()
        os.replace(temporary, target)
        sync(target.local.parent)
        return
    if source.is_file():
        _copy_file(source, target)
        return
    for file in _config_last(source.walk()):
        _copy_file(file, target / file.relative_to(source))


@contextlib.contextmanager
def writable_folder(out: PathLike[str]) -> Iterator[Path]:
    """A folder of this machine to fill; what is in it replaces `out` when the block ends, every
    file as readable as others that are made there."""
    target = Place(out)
    if target.is_local:
        partial = target.local.with_name(f"{HIDDEN}{target.name}.{uuid.uuid4().hex}")
        make_folder(partial)
        try:
            yield partial
            let_read(partial)
            sync_tree(partial)
            target.remove_tree()
            os.replace(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync(target.local.parent)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        target.remove_tree()
        copy(Place(folder), target)


@contextlib.contextmanager
def readable_folder(source: Place) -> Iterator[Path]:
    """The folder, or a copy of it on this machine for the time of the block."""
    if source.is_local:
        yield source.local
        return
    with tempfile.TemporaryDirectory() as folder:
        copy(source, Place(folder))
        yield Path(folder)


def let_read(folder: Path) -> None:
    """The permissions that the umask left the folder: safetensors writes files that only their
    owner may read, and copies have those of their source."""
    usual = folder.stat().st_mode
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(usual & 0o666)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _copy_file(source: Place, target: Place) -> None:
    if target.is_local:
        make_folder(target.local.parent)
    systems: dict[str, Any] = {
        "source_filesystem": source.file_system,
        "destination_filesystem": target.file_system,
    }
    fs.copy_files(source.path, target.path, **systems)


def _config_last(files: list[Place]) -> list[Place]:
    return sorted(files, key=lambda file: file.name == "config.json")
