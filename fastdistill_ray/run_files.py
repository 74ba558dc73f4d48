"""The map of a run folder, and how a stage leaves its result there.

    RUN/
      recipe.yaml ... students/   what the last recipe said and found (see VIEW)
      recipes/<id>/               the same of the recipes that were run here before it
      stages/<kind>/<label>-<id>/ the work, shared by all recipes; a stage's folder is never changed
                                  once it holds its manifest

docs/run_folder.md names every file, its writer and its reader.
"""

import json
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.place import Place

STAGES = "stages"
RECIPES = "recipes"
# Of a view: what belongs to one recipe.
RECIPE = "recipe.yaml"  # resolved
GRAPH = "graph.json"  # name of each stage of the recipe -> its folder, from the run folder
GIT, VERSIONS, MEMORY = "git.txt", "versions.json", "memory.json"
CHOICE, RESULTS = "choose.json", "results.json"
REPORT, REPORT_MARKDOWN, AUDIT = "report.html", "report.md", "audit.html"
FIGURES = "figures"  # of report.md
COMPARISON = "compare.html"  # with other runs
CONDENSED, CONDENSED_MARKDOWN = "condense.json", "condense.md"
STUDENTS = "students"
PLACED = "placed"  # in a bucket, by student: of which trial's files those are copies
BOX, BOX_RESULTS, BOX_REPORT = "box", "box.json", "box.md"  # of tools; what came of it
CARD = "README.md"  # of a student
VIEW = (
    *(RECIPE, GRAPH, GIT, VERSIONS, MEMORY, CHOICE, RESULTS, REPORT, REPORT_MARKDOWN, FIGURES),
    *(AUDIT, CONDENSED, CONDENSED_MARKDOWN, STUDENTS, PLACED, BOX, BOX_RESULTS, BOX_REPORT),
)
# Of a stage's folder.
STAGE = "stage.json"  # what the stage depends on
MANIFEST = "manifest.json"  # written last: the stage is complete
SECONDS = "seconds.json"
STALL = "stall-"  # begins the name of the evidence that a loop which hung leaves
METRICS, STEPS = "metrics.jsonl", "steps.jsonl"  # of a training
# Of a training that goes on: Ray's checkpoints, and of a student with rounds who writes.
CHECKPOINTS, POLICIES = "checkpoints", "policies"
STOP = "stop"  # a training in whose folder it is ends between two steps, with a checkpoint
OVERLAPS = "overlaps.json"  # tested problems of which training texts have words
ANSWERS = "answers.parquet"  # of an evaluation, beside the store it is made of


@dataclass(frozen=True)
class StageResult:
    """What a stage function returns; rows_in == rows_out + the sum of set_aside, always."""

    rows_in: int
    rows_out: int
    set_aside: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    facts: dict[str, float] = field(default_factory=dict)  # what else its readers may want


def write_text(file: "PathLike[str] | Place", text: str) -> None:
    """Write a whole file or none, durably: a reader never sees half of it."""
    Place(file).put(text)


def write_json(file: "PathLike[str] | Place", tree: Any) -> None:
    write_text(file, json.dumps(tree, indent=1))


def read_json(file: "PathLike[str] | Place", absent: Any) -> Any:
    """The file's content, or `absent` where there is none; UserError names a spoilt file."""
    try:
        return json.loads(Place(file).read_text())
    except FileNotFoundError:
        return absent
    except ValueError as error:
        raise UserError(
            f"{file}: not JSON ({error}); restore the file, or move its folder out of the run"
        ) from error


def seed_name(student: str, seed: int) -> str:
    """Of a student trained with a further seed: its folder in students/ and its answers."""
    return f"{student}-seed_{seed}"


def run_of(view: Place) -> Place:
    """The run folder that a view lies in, or is."""
    if view.parent.name != RECIPES or (view / STAGES).is_dir():
        return view  # also a run in a folder that a user calls recipes
    run = view.parent.parent
    return run if (run / STAGES).is_dir() else view


def stage_folders(view: Place) -> dict[str, Place]:
    """Name of each stage that the recipe of a view has come to -> its folder."""
    run = run_of(view)
    return {name: run / folder for name, folder in read_json(view / GRAPH, {}).items()}
