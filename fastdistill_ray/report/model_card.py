"""README.md of a trained student, as a model's hub shows it: what it is, how good, made of what."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from fastdistill_ray.report.conclusion import model_label
from fastdistill_ray.report.reading import Contents, student_entries
from fastdistill_ray.report.summary import METRIC, accuracy_rows
from fastdistill_ray.run_files import CARD, STUDENTS


def write_cards(run: Contents) -> None:
    """One into the folder of each student that was evaluated, in place of its source's own."""
    for name in student_entries(run.recipe):
        folder = run.path / STUDENTS / name
        if folder.is_dir() and any(model == name for model in run.results.models):
            (folder / CARD).unlink()  # a hard link of the trial's
            (folder / CARD).put(card_of(run, name))


def card_of(run: Contents, name: str) -> str:
    """With the metadata of huggingface_hub's model cards, results among them."""
    recipe, entry = run.recipe, student_entries(run.recipe)[name]
    base = entry["model"] or recipe["student"]["model"]
    teachers = [recipe["teacher"], *recipe.get("teachers", [])]
    data = ModelCardData(
        model_name=f"{recipe['name']}-{name}",
        base_model=None if _is_folder(base) else base,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["distillation", "fastdistill_ray"],
        eval_results=list(_results(run, name)),
    )
    taught = ", ".join(f"`{_shown(one['model'])}`" for one in teachers)
    lines = [
        f"# {recipe['name']}: {model_label(name, recipe)}",
        f"`{_shown(base)}`, taught by {taught} on the task {recipe['task']['name']} with "
        "fastdistill_ray. Its licence is bound by those of these models and of the problems.",
        "## Accuracy",
        _table(run),
        "## Use",
        "Ask it as it was trained, with this system text:",
        f"```\n{recipe['student']['prompt']['system']}\n```",
        "`vllm serve .` in this folder serves it; transformers loads it with `from_pretrained`.",
        "## Recipe",
        f"```yaml\n{run.recipe_text.strip()}\n```",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n").content


def _is_folder(model: str) -> bool:
    """Not a hub's: a recipe names folders from the root."""
    return model.startswith(("/", "~", "."))


def _shown(model: str) -> str:
    return Path(model).name if _is_folder(model) else model


def _results(run: Contents, name: str) -> list[EvalResult]:
    task = run.recipe["task"]["name"]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=task,
            dataset_split=split,
            metric_type=METRIC,
            metric_value=found.value,
        )
        for (model, split, metric), found in run.results.rows.items()
        if model == name and metric == METRIC and found.value is not None
    ]


def _table(run: Contents) -> str:
    header, *rows = accuracy_rows(run)
    table = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)
