"""Files of a run, on a disk or in a bucket: whole or not there, and durable once a call returns.

A bucket has neither append nor rename, so nothing here needs them. On a disk a file is written
beside its place, synced, and renamed into it; then the folder is synced. What a network file
system must give for that: a rename that replaces, fsync that reaches its server, and
close-to-open consistency (NFS from version 3 on, mounted without `nocto` and not `async`).
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from fastdistill_ray.errors import UserError

AZURE = ("abfs", "abfss")
BUCKETS = ("s3", "gs", *AZURE)
GOOGLE = "gs://"
AZURE_HOST = ".core.windows.net"
HIDDEN = "."  # begins the name of a file that is still being written, on a disk
UNFINISHED = re.compile(r"\..*\.[0-9a-f]{32}")


class Place:
    """A file or folder; speaks as pathlib.Path does.

    `s3://bucket/folder?endpoint_override=...`: what pyarrow.fs takes behind the question mark goes
    along to every name below. Keys come from the environment of each node and nowhere else.
    Of Azure `abfs://container@account.dfs.core.windows.net/folder`; its key, where the node's own
    identity has no right, in AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN.
    """

    def __init__(self, where: "str | os.PathLike[str] | Place") -> None:
        if isinstance(where, Place):
            self._root, self._path, self._query = where._root, where._path, where._query
            return
        self._root, self._path, self._query = _split(os.fspath(where))

    @property
    def is_local(self) -> bool:
        return not self._root

    @property
    def local(self) -> Path:
        """As a path of this machine's; only where it is one."""
        assert self.is_local, self
        return Path(self._path)

    @property
    def file_system(self) -> fs.FileSystem:
        return _file_system(self._root, self._path.partition("/")[0], self._query)

    @property
    def path(self) -> str:
        """As `file_system` calls it."""
        return self._path

    @property
    def name(self) -> str:
        return self._path.rpartition("/")[2]

    @property
    def parent(self) -> "Place":
        return self._with_path(self._path.rpartition("/")[0] or "/")

    def with_name(self, name: str) -> "Place":
        return self.parent / name

    def relative_to(self, folder: "Place") -> str:
        """ValueError where it does not lie below the folder."""
        if not self.is_below(folder):
            raise ValueError(f"{self} is not below {folder}")
        return self._path[len(folder._path) :].lstrip("/")

    def is_below(self, folder: "Place") -> bool:
        return self._root == folder._root and f"{self._path}/".startswith(f"{folder._path}/")

    def __truediv__(self, name: "str | os.PathLike[str]") -> "Place":
        return self._with_path(f"{self._path.rstrip('/')}/{os.fspath(name)}")

    def __str__(self) -> str:
        return f"{self._root}{self._path}{self._query}"

    def __fspath__(self) -> str:
        return str(self.local)

    def __repr__(self) -> str:
        return f"Place({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: "Place") -> bool:
        return str(self) < str(other)

    def _with_path(self, path: str) -> "Place":
        found = Place.__new__(Place)
        found._root, found._path, found._query = self._root, path, self._query
        return found

    # What is there.

    def exists(self) -> bool:
        if self.is_local:
            return self.local.exists()
        return self._info().type != fs.FileType.NotFound

    def is_file(self) -> bool:
        return self.local.is_file() if self.is_local else self._info().type == fs.FileType.File

    def is_dir(self) -> bool:
        return self.local.is_dir() if self.is_local else self._info().type == fs.FileType.Directory

    def size(self) -> int:
        """Bytes of a file; FileNotFoundError."""
        if self.is_local:
            return self.local.stat().st_size
        info = self._info()
        if info.type != fs.FileType.File:
            raise FileNotFoundError(str(self))
        return info.size

    def changed(self) -> tuple[int, int]:
        """(size, time in ns) of a file: others once it was written again; (0, 0) of none."""
        if self.is_local:
            try:
                state = self.local.stat()
            except FileNotFoundError:
                return 0, 0
            return state.st_size, state.st_mtime_ns
        info = self._info()
        return (info.size, info.mtime_ns) if info.type == fs.FileType.File else (0, 0)

    def list(self) -> "list[Place]":
        """What lies in a folder, sorted by name, but what is being written; [] where there is no
        folder."""
        return [self / name for name in sorted(self.sizes(is_file=False))]

    def sizes(self, is_file: bool = True) -> dict[str, int]:
        """Name -> bytes of the files in a folder; unless `is_file`, of its folders too."""
        if self.is_local:
            return self._local_sizes(is_file)
        if not is_file and self._root == GOOGLE:  # pyarrow does not list what lies deeper there
            return self._sizes_below()
        return {
            info.base_name: info.size or 0
            for info in self._infos(recursive=False)
            if info.type == fs.FileType.File or not is_file
        }

    def _sizes_below(self) -> dict[str, int]:
        """As `sizes`, from the names of all files below."""
        found: dict[str, int] = {}
        for info in self._infos(recursive=True):
            name, _, rest = info.path.removeprefix(f"{self._path}/").partition("/")
            found[name] = 0 if rest else info.size or 0
        return found

    def _local_sizes(self, is_file: bool) -> dict[str, int]:
        try:
            with os.scandir(self._path) as entries:
                shown = [one for one in entries if not one.name.startswith(HIDDEN)]
        except (FileNotFoundError, NotADirectoryError):
            return {}
        found = {}
        for entry in shown:
            with contextlib.suppress(FileNotFoundError):  # it went away since it was listed
                if entry.is_file() or not is_file:
                    found[entry.name] = entry.stat().st_size
        return found

    def walk(self) -> "list[Place]":
        """Every file below a folder, sorted, but what is being written and hidden folders."""
        if self.is_local:
            found = []
            for folder, folders, names in os.walk(self._path):
                folders[:] = [name for name in folders if not name.startswith(HIDDEN)]
                whole = (name for name in names if not UNFINISHED.fullmatch(name))
                found += [Place(os.path.join(folder, name)) for name in whole]
            return sorted(found)
        infos = self._infos(recursive=True)
        return sorted(self._with_path(info.path) for info in infos if info.type == fs.FileType.File)

    # Reading and writing.

    def read_bytes(self) -> bytes:
        """FileNotFoundError."""
        if self.is_local:
            return self.local.read_bytes()
        with self.file_system.open_input_stream(self._path) as file:
            return file.read()

    def read_text(self) -> str:
        return self.read_bytes().decode("utf-8")

    def put(self, data: bytes | str | pa.Buffer) -> None:
        """The whole file or none."""
        with self.create() as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)

    @contextlib.contextmanager
    def create(self) -> Iterator[pa.NativeFile]:
        """A file to write; it is there, whole, when the block ends, and not where that raises."""
        if not self.is_local:
            buffer = pa.BufferOutputStream()
            yield buffer
            with self.file_system.open_output_stream(self._path) as file:
                file.write(buffer.getvalue())
            return
        make_folder(self.local.parent)
        temporary = self.local.with_name(f"{HIDDEN}{self.name}.{uuid.uuid4().hex}")
        try:
            with pa.OSFile(str(temporary), "wb") as file:
                yield file
            sync(temporary)
            os.replace(temporary, self._path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                error.filename = error.filename or self._path  # Arrow's names none
            raise
        sync(self.local.parent)

    def unlink(self) -> None:
        """Of a file that is not there, nothing."""
        if self.is_local:
            self.local.unlink(missing_ok=True)
        elif self.is_file():
            self.file_system.delete_file(self._path)

    def remove_tree(self) -> None:
        if self.is_local:
            shutil.rmtree(self._path, ignore_errors=True)
        elif self.is_dir():
            # Where a folder is only what names have in common, it is gone with the last of them.
            with contextlib.suppress(FileNotFoundError):
                self.file_system.delete_dir(self._path)

    def remove_unfinished(self) -> None:
        """Files that a killed process had begun in a folder."""
        if self.is_local and self.is_dir():
            for file in self.local.glob(f"{HIDDEN}*.{'[0-9a-f]' * 32}"):
                file.unlink(missing_ok=True)

    def _info(self) -> fs.FileInfo:
        return self.file_system.get_file_info(self._path)

    def _infos(self, recursive: bool) -> "list[fs.FileInfo]":
        selector = fs.FileSelector(self._path, allow_not_found=True, recursive=recursive)
        return [one for one in self.file_system.get_file_info(selector) if one.path != self._path]


class Journal:
    """Lines that one writer adds to a file; `sync` makes them durable.

    A bucket cannot append: there the whole file is put again, at `sync`.
    """

    def __init__(self, file: os.PathLike[str]) -> None:
        place = self._place = Place(file)
        self._text = "" if place.is_local or not place.is_file() else place.read_text()
        if place.is_local:
            make_folder(place.local.parent)

    def append(self, line: str) -> None:
        if not self._place.is_local:
            self._text += f"{line}\n"
            return
        with open(self._place, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def sync(self) -> None:
        if not self._place.is_local:
            self._place.put(self._text)
        elif self._place.exists():
            sync(self._place.local)
            sync(self._place.local.parent)


def make_folder(folder: Path) -> None:
    """With its parents, each durable."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """A file's content or a folder's names reach the disk; some file systems sync no folders."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    for folder, _, names in os.walk(path):
        for name in names:
            sync(Path(folder) / name)
        sync(Path(folder))
    if path.is_file():
        sync(path)


def _split(where: str) -> tuple[str, str, str]:
    """(what stands before the bucket, or "" for a path of this machine; path; query with ?)."""
    if "\0" in where:
        raise UserError(f"{where!r}: a name cannot hold a null byte")
    if "://" not in where:
        return "", os.path.abspath(os.path.expanduser(where)), ""
    parts = urlsplit(where)
    if parts.scheme not in BUCKETS:
        raise UserError(
            f"{parts.scheme}://: not a kind of storage; a folder, or one of "
            + ", ".join(f"{scheme}://" for scheme in BUCKETS)
        )
    is_azure = parts.scheme in AZURE
    secrets = ("key", "secret", "sas")
    if (
        (parts.username and not is_azure)
        or parts.password
        or any(word in parts.query.lower() for word in secrets)
    ):
        raise UserError(
            f"{parts.scheme}://: keep keys out of the address; set them in the environment of "
            "every node, such as AWS_ACCESS_KEY_ID"
        )
    if not parts.netloc:
        raise UserError(f"{where}: it names no bucket")
    if parts.fragment:
        raise UserError(f"{where}: a name in a bucket cannot hold #")
    query = f"?{parts.query}" if parts.query else ""
    if not is_azure:
        return f"{parts.scheme}://", f"{parts.netloc}{parts.path}".rstrip("/"), query
    container, _, host = parts.netloc.rpartition("@")
    if AZURE_HOST in host and container:
        return f"{parts.scheme}://{host}/", f"{container}{parts.path}".rstrip("/"), query
    if not parts.path.strip("/") or not (container or AZURE_HOST in host):
        raise UserError(
            f"{where}: name the container and the account: "
            "abfs://container@account.dfs.core.windows.net/folder"
        )
    return f"{parts.scheme}://{parts.netloc}/", parts.path.strip("/"), query


@cache
def _file_system(root: str, bucket: str, query: str) -> fs.FileSystem:
    if not root:
        return fs.LocalFileSystem()
    parts = urlsplit(root)
    if parts.scheme in AZURE:
        return _azure(parts.username or "", parts.netloc.rpartition("@")[2], query)
    found, _ = fs.FileSystem.from_uri(f"{root}{bucket}{query}")
    return found


def _azure(account: str, host: str, query: str) -> fs.FileSystem:
    """By the node's own identity, unless its environment holds a key; where an account is named
    beside the host, that is an emulator."""
    keys = {
        "account_key": os.environ.get("AZURE_STORAGE_KEY"),
        "sas_token": os.environ.get("AZURE_STORAGE_SAS_TOKEN"),
    }
    if not account:
        return fs.AzureFileSystem(host.partition(".")[0], **keys)
    scheme = "http" if "enable_tls=false" in query else "https"
    return fs.AzureFileSystem(
        account,
        **keys,
        **dict.fromkeys(("blob_storage_authority", "dfs_storage_authority"), host),
        **dict.fromkeys(("blob_storage_scheme", "dfs_storage_scheme"), scheme),
    )
