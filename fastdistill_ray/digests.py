"""What files hold, as short text: two files with equal digests hold the same bytes.

A digest of a large file takes seconds, so it is kept under the file's path, size and time of
change in the cache folder; a file that changed is read again.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from fastdistill_ray.run_files import write_text

UNKNOWN = "?"  # in place of a revision that is not on this machine; may be any


def cache_folder() -> Path:
    """Folder of converted models and digests: FASTDISTILL_CACHE or ~/.cache/fastdistill_ray."""
    return Path(
        os.environ.get("FASTDISTILL_CACHE") or Path.home() / ".cache" / "fastdistill_ray"
    ).resolve()


def text_digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:20]


def file_digest(file: Path) -> str:
    """Digest of the whole content; OSError where it cannot be read."""
    state = file.stat()
    key = text_digest([str(file.resolve()), str(state.st_size), str(state.st_mtime_ns)])
    kept = cache_folder() / "digests" / key
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()[:20]
    write_text(kept, found)
    return found


def folder_digest(folder: Path, patterns: Iterable[str] = ("**/*",)) -> str:
    """Digest of the names and contents of the files that match."""
    files = sorted({file for one in patterns for file in folder.glob(one) if file.is_file()})
    return text_digest(
        text for file in files for text in (str(file.relative_to(folder)), file_digest(file))
    )


def hub_revision(kind: str, repository: str, revision: str = "") -> str:
    """Commit of the copy of a hub repository on this machine; `kind`: models or datasets;
    `revision`: a commit, tag or branch, "": the main one."""
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision[:20]
    from huggingface_hub.constants import HF_HUB_CACHE  # noqa: PLC0415  slow

    name = f"{kind}--{repository.replace('/', '--')}"
    note = Path(HF_HUB_CACHE) / name / "refs" / (revision or "main")
    return note.read_text(encoding="utf-8").strip()[:20] if note.is_file() else UNKNOWN


def same_identity(one: str, other: str) -> bool:
    """`org/name@?` is that of any revision."""
    if one == other:
        return True
    (name, _, revision), (its_name, _, its_revision) = one.rpartition("@"), other.rpartition("@")
    return name == its_name != "" and UNKNOWN in (revision, its_revision)
