"""README.md of a trained student, as a model's hub shows it: what it is, how good, made of what."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from fastdistill_ray.evaluation.statistics import Estimate
from fastdistill_ray.report.conclusion import model_label, split_label
from fastdistill_ray.report.reading import Contents, Results, first_model, student_entries
from fastdistill_ray.report.summary import METRIC, accuracy_rows, share
from fastdistill_ray.run_files import CARD, STUDENTS, seed_name

USE = "`vllm serve .` in this folder serves it; transformers loads it with `from_pretrained`."


def write_cards(run: Contents) -> None:
    """One into the folder of each student that was evaluated, those of further seeds too, in place
    of its source's own."""
    seeds: list[int] = run.recipe["compare"].get("seeds", [])
    for name in student_entries(run.recipe):
        own = {name: seeds[0] if len(seeds) > 1 else None}
        own |= {seed_name(name, seed): seed for seed in seeds[1:]}
        for student, seed in own.items():
            folder = run.path / STUDENTS / student
            if folder.is_dir() and name in run.results.models:
                (folder / CARD).unlink()  # a hard link of the trial's
                (folder / CARD).put(card_of(run, name, seed))


def of_adapter(card: str, base: str) -> str:
    """The card of the adapter alone, of the same student."""
    return card.replace(
        USE,
        f"This is its LoRA adapter, on top of `{base}`: peft loads it with "
        "`AutoPeftModelForCausalLM.from_pretrained`, and vLLM with `--enable-lora`.",
    )


def card_of(run: Contents, name: str, seed: int | None) -> str:
    """With the metadata of huggingface_hub's model cards, results among them."""
    recipe = run.recipe
    base, _ = first_model(name, recipe)
    own = own_results(run.results, name, seed)
    data = ModelCardData(
        model_name=f"{recipe['name']}-{name}",
        base_model=None if _is_folder(base) else base,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["distillation", "fastdistill_ray"],
        eval_results=_reported(own, recipe["task"]),
    )
    lines = [
        f"# {recipe['name']}: {model_label(name, recipe)}",
        f"`{_shown(base)}`, taught by {_taught_by(name, recipe)} on the task "
        f"{recipe['task']['name']} with fastdistill_ray. Its licence is bound by "
        "those of these models and of the problems.",
        "## Accuracy",
        *_of_seed(own, seed),
        _table(run),
        "## Use",
        "Ask it as it was trained, with this system text:",
        f"```\n{recipe['student']['prompt']['system']}\n```",
        USE,
        "## Recipe",
        f"```yaml\n{run.recipe_text.strip()}\n```",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n").content


def _taught_by(name: str, recipe: dict[str, Any]) -> str:
    """A former student where it learns from one or its texts, and the recipe's teachers."""
    entry = student_entries(recipe)[name]
    teachers = [recipe["teacher"], *recipe.get("teachers", [])]
    taught = ", ".join(f"`{_shown(one['model'])}`" for one in teachers)
    former = [f"the student `{entry['teacher']}` of this run"] if entry.get("teacher") else []
    if entry.get("writer"):
        former.append(f"texts of the student `{entry['writer']}` of this run")
    return f"{' and '.join(former)}, and so in the end by {taught}," if former else taught


def _is_folder(model: str) -> bool:
    """Not a hub's: a recipe names folders from the root."""
    return model.startswith(("/", "~", "."))


def _shown(model: str) -> str:
    return Path(model).name if _is_folder(model) else model


def own_results(results: Results, name: str, seed: int | None) -> dict[str, Estimate]:
    """Split -> accuracy of the one student: where there are several seeds, of its own."""
    found = {}
    for split in results.splits:
        mean = results.rows.get((name, split, METRIC))
        own = results.seeds.get((name, split, seed), mean) if seed is not None else mean
        if own and own.value is not None:
            found[split] = own
    return found


def _reported(own: dict[str, Estimate], task: dict[str, Any]) -> list[EvalResult]:
    datasets = {"ood": task["ood"]["name"]} if task.get("ood") else {}
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=datasets.get(split, task["name"]),
            dataset_name=datasets.get(split, task["name"]),
            dataset_split=split,
            metric_type=METRIC,
            metric_value=found.value,
        )
        for split, found in own.items()
    ]


def _of_seed(own: dict[str, Estimate], seed: int | None) -> list[str]:
    if seed is None:
        return []
    shares = ", ".join(f"{share(found)} on {split_label(split)}" for split, found in own.items())
    return [f"Of this student, trained with seed {seed}: {shares}. The table has means over seeds."]


def _table(run: Contents) -> str:
    header, *rows = accuracy_rows(run.results, run.recipe)
    table = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)
