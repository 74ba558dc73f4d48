"""A clone without `git lfs pull` has, in place of each large file, a few lines that name it."""

from pathlib import Path

from fastdistill_ray.errors import UserError

BEGINNING = b"version https://git-lfs.github.com/"


def refuse_pointer(file: Path) -> None:
    """UserError where the file is such lines; OSError where it cannot be read."""
    with file.open("rb") as stream:
        if stream.read(len(BEGINNING)) == BEGINNING:
            raise UserError(f"{file}: a git-lfs pointer and not the file itself; run git lfs pull")
