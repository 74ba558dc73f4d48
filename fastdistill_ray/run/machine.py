"""This machine as a run sees it, for a question or a report of a fault."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import psutil

from fastdistill_ray.cluster.running import find_head
from fastdistill_ray.run.provenance import versions
from fastdistill_ray.storage.room import gib

VARIABLES = (
    *("RAY_ADDRESS", "RAY_AUTH_MODE", "HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE", "http_proxy", "https_proxy"),
)
BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")  # names of Linux for arithmetic in it


def describe_machine() -> str:
    """Lines of `name  value`; nothing of it is a secret: of variables that hold keys no value."""
    found = versions()
    facts = {
        "python": f"{found.pop('python')}, {platform.platform()}",
        "git": found.pop("git") or "no checkout",
        **found,
        "cpus": f"{os.cpu_count()}, {_cpu()}",
        "memory": f"{gib(psutil.virtual_memory().total)}, "
        f"{gib(psutil.virtual_memory().available)} of it free",
        "disk": f"{gib(shutil.disk_usage('.').free)} free here",
        "gpus": _gpus() or "none",
        "ray head": find_head().address or "none of yours on this machine",
    }
    facts |= {name: _public(os.environ[name]) for name in VARIABLES if name in os.environ}
    facts["HF_TOKEN"] = "set" if os.environ.get("HF_TOKEN") else "not set"
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def _public(value: str) -> str:
    """Without the user and the password of an address."""
    return re.sub(r"//[^/@]*@", "//***@", value)


def _cpu() -> str:
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return "whether they have arithmetic for bfloat16 is not known"
    has = [name for name in BFLOAT16 if name in words]
    return f"bfloat16 by {', '.join(has)}" if has else "no arithmetic for bfloat16: take float32"


def _gpus() -> str:
    command = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,driver_version",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(done.stdout.splitlines())
