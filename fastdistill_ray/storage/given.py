"""Files that users give, read with a line that says what is wrong with one."""

from pathlib import Path

from fastdistill_ray.errors import UserError

POINTER = b"version https://git-lfs.github.com/"


def read_text(file: Path) -> str:
    """UserError names the file and why it is no text."""
    try:
        refuse_pointer(file)
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{file}: a folder, expected a file") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start})") from error


def refuse_pointer(file: Path) -> None:
    """UserError where a clone without `git lfs pull` has a few lines that name a large file in its
    place; OSError where it cannot be read."""
    with file.open("rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            raise UserError(f"{file}: a git-lfs pointer and not the file itself; run git lfs pull")
