"""What trackers are told beside the steps of a training: its recipe, and what came of it."""

from typing import Any

from fastdistill_ray.evaluation.results import Trial
from fastdistill_ray.recipe.derived import Training
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.report.summary import METRIC
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run_files import RESULTS, read_json
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.trackers import TRACKED, Trackers


def recipe_of(recipe: Recipe, training: Training) -> dict[str, Any]:
    """The recipe with what is this training's own; keys are in no field of it."""
    tree = recipe.model_dump(mode="json", by_alias=True)
    own = training.student.objective.model_dump(mode="json", by_alias=True)
    tree["optimizer"]["learning_rate"] = training.learning_rate
    tree["training"]["seed"] = training.seed
    return tree | {
        "objective": own,
        "student": {**tree["student"], "model": training.student.model},
    }


def tell_trackers(run: RunFolder, chosen: dict[str, Trial]) -> None:
    """The accuracies of each chosen student and their 95 % intervals, beside its steps."""
    results = read_json(run.view / RESULTS, {})
    for name, trial in chosen.items():
        folder = Place(trial.weights).parent
        if not (folder / TRACKED).is_file():  # it was trained without any
            continue
        rows = [row for row in results["rows"] if row["model"] == name and row["metric"] == METRIC]
        if trial.seed is not None:
            rows = [
                row
                for row in results["seeds"]
                if (row["model"], row["seed"]) == (trial.student, trial.seed)
            ] or rows
        values = {
            f"results/{row['split']}/{METRIC}{suffix}": row[field]
            for row in rows
            for field, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))
            if row[field] is not None
        }
        Trackers(run.recipe.tracking, folder, f"{run.recipe.name}/{name}", {}).tell_results(values)
