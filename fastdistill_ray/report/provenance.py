"""What a run can be made again from: models, data, seeds, devices, code and command."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastdistill_ray.report.page import Block, Cell, Listing, Table
from fastdistill_ray.report.reading import Contents
from fastdistill_ray.run_files import GIT, RECIPE, STAGE, read_json
from fastdistill_ray.storage.place import Place

MOST_OF_DIFF = 100_000  # characters


def provenance_blocks(run: Contents) -> list[Block]:
    rows = [*_inputs(run), *_seeds(run.recipe), *_devices(run.recipe), *_code(run)]
    table = Table(
        ["What", "Which"],
        rows,
        "Models and problems by the revision or content that the stages were made from; the "
        "command makes the run again in another folder.",
        num_text_columns=2,
        is_prose=True,
    )
    versions = [[name, found] for name, found in run.versions.items()]
    packages = [Table(["Package", "Version"], versions, title="Versions")] if versions else []
    diff = _git(run).partition("\n")[2].strip()
    changes = [Listing("Changes to the code that were not committed", _cut(diff))] if diff else []
    return [table, Listing("The resolved recipe", run.recipe_text), *changes, *packages]


def _inputs(run: Contents) -> list[list[Cell | str]]:
    """Of models and problems, as each was first named by a stage."""
    places = {folder.name for folder in run.stages.values()}
    found: dict[str, str] = {}
    for folder in run.stages.values():
        for name, value in read_json(folder / STAGE, {}).get("inputs", {}).items():
            is_stage = "groups" in name or str(value).startswith("stages/") or value in places
            if name == "model" or is_stage:
                continue
            known, one = found.get(name, ""), str(value).partition("#")[0]
            if one not in known.split(", "):
                found[name] = f"{known}, {one}" if known else one
    models = {"teacher.model": run.recipe["teacher"], "student.model": run.recipe["student"]}
    rows: list[list[Cell | str]] = []
    for name, value in found.items():
        model = str(models[name]["model"]) if name in models else ""
        rows.append([name.replace(".", " ").capitalize(), f"{model} ({value})" if model else value])
    return rows


def _seeds(recipe: dict[str, Any]) -> list[list[Cell | str]]:
    sections = ("task", "sampling", "selection", "training", "evaluation")
    seeds = [
        f"{name} {recipe[name]['seed']}"
        for name in sections
        if isinstance(recipe.get(name), dict) and recipe[name].get("seed") is not None
    ]
    if several := recipe["compare"].get("seeds"):
        seeds.append(f"of trainings {', '.join(map(str, several))}")
    return [["Seeds", ", ".join(seeds)]] if seeds else []


def _devices(recipe: dict[str, Any]) -> list[list[Cell | str]]:
    found = []
    for name, pool in recipe["pools"].items():
        for one in pool if isinstance(pool, list) else [pool]:
            if isinstance(one, dict) and "workers" in one:
                each = [f"{one['gpus']:g} GPUs"] if one.get("gpus") else []
                each += [f"{one['cpus']:g} CPUs"] if one.get("cpus") else []
                found.append(f"{name}: {one['workers']} of {' and '.join(each) or 'no cores'}")
    return [["Workers asked for", "; ".join(found)]] if found else []


def _code(run: Contents) -> list[list[Cell | str]]:
    diff = _git(run).partition("\n")[2].strip()
    commit = run.versions.get("git", "") or _git(run).partition("\n")[0]
    rows: list[list[Cell | str]] = []
    if commit:
        changed = ", with changes that were not committed (below)" if diff else ""
        rows.append(["Code of the run", f"{commit}{changed}"])
    rows.append(["Command", f"fastdistill distill RUN/{RECIPE} --run-dir NEW"])
    rows.append(["Written by", f"fastdistill-ray {_own_version()}"])
    return rows


def _own_version() -> str:
    try:
        return version("fastdistill-ray")
    except PackageNotFoundError:  # a checkout that is not installed
        return "of a checkout"


def _git(run: Contents) -> str:
    file: Place = run.path / GIT
    return file.read_text() if file.is_file() else ""


def _cut(text: str) -> str:
    if len(text) <= MOST_OF_DIFF:
        return text
    return f"{text[:MOST_OF_DIFF]}\n[... {len(text) - MOST_OF_DIFF:,} more characters in {GIT}]"
