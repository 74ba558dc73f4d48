"""What a run cost: time, hours, tokens and money by stage, memory and tokens of each training, and
what each teacher was paid."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdistill_ray.report.conclusion import model_label, percent
from fastdistill_ray.report.group_numbers import read_teachers
from fastdistill_ray.report.page import Block, Cell, Table, Text
from fastdistill_ray.report.reading import Contents, Training, first_model, student_entries

UNDEFINED = "\u2013"


def training_label(run: Contents, training: Training) -> str:
    seed = "" if training.seed is None else f", seed {training.seed}"
    return f"{model_label(training.student, run.recipe)}, {training.learning_rate:g}{seed}"


def training_tables(run: Contents) -> list[Table]:
    """What the packing saved, and memory: measured and as planned."""
    rows = []
    for training in run.trainings:
        counts = {name: values.sum() for name, (_, values) in training.steps.items()}
        if "train/computed_tokens" not in counts:
            continue
        computed, unique = counts["train/computed_tokens"], counts["train/unique_tokens"]
        rows.append(
            [
                training_label(run, training),
                f"{counts['train/trained_tokens']:,.0f}",
                f"{computed:,.0f}",
                percent(1 - unique / counts["train/row_tokens"]),
                percent(1 - unique / computed),
                f"{training.steps['memory/peak_gib'][1].max():.1f}",
            ]
        )
    header = ["Training", "Trained tokens", "Computed tokens", "Shared prompts save %"]
    caption = (
        "Of all steps. Shared prompts save: tokens that a row per completion would have computed "
        "again. Padding: computed tokens that stand for nothing. Memory is at most, of rank 0."
    )
    columns = [*header, "Padding %", "Peak GiB"]
    tables = [Table(columns, rows, caption, title="What training computed")] if rows else []
    return tables + _memory_tables(run)


def _memory_tables(run: Contents) -> list[Table]:
    plans = {
        model: {name: size for name, size in plan.items() if name != "micro_batch_tokens"}
        for model, plan in run.memory.items()
    }
    if not plans:
        return []
    measured = _peaks(run)
    names = list(next(iter(plans.values())))
    rows = []
    for model, plan in plans.items():
        planned, peak = sum(plan.values()) / 2**30, measured.get(model)
        rows.append(
            [
                short_model(model),
                *(f"{plan.get(name, 0) / 2**30:.2f}" for name in names),
                f"{planned:.1f}",
                UNDEFINED if peak is None else f"{peak:.1f}",
                UNDEFINED if peak is None else percent(peak / planned),
            ]
        )
    caption = (
        "Planned: estimated before training, at full micro-batches. Measured: the most that rank 0 "
        "held in any training of that model; where no micro-batch was full it needed less; above "
        "100 % the plan was too low."
    )
    columns = ["Student", *(name.capitalize() for name in names)]
    columns += ["Planned", "Measured", "Measured of planned %"]
    title = "Memory of a rank in GiB, planned and measured"
    return [Table(columns, rows, caption, title=title)]


def _peaks(run: Contents) -> dict[str, float]:
    """GiB measured at most, by the name that the plan has for a model."""
    peaks: dict[str, float] = {}
    entries = student_entries(run.recipe)
    for training in run.trainings:
        if training.student not in entries or "memory/peak_gib" not in training.steps:
            continue
        own, layers = first_model(training.student, run.recipe)
        model = f"{own}#layers={','.join(map(str, layers))}" if layers else own
        if len(run.memory) == 1 and model not in run.memory:
            (model,) = run.memory
        peak = float(training.steps["memory/peak_gib"][1].max())
        peaks[model] = max(peak, peaks.get(model, 0.0))
    return peaks


def short_model(model: str) -> str:
    """A reference without its folders; of a model that keeps some blocks, how many."""
    name, _, layers = model.partition("#layers=")
    name = Path(name).name if name.startswith("/") else name
    return f"{name}, {layers.count(',') + 1} blocks" if layers else name


def cost_blocks(run: Contents) -> list[Block]:
    sums = ("seconds", "cpu_hours", "gpu_hours", "prompt_tokens", "completion_tokens")
    total = {name: sum(manifest[name] for manifest in run.manifests) for name in sums}
    pools = run.recipe["pools"]
    rows = [
        [
            manifest["stage"],
            *_resource_cells(manifest, pools),
            f"{manifest['rows_in']:,}",
            f"{manifest['rows_out']:,}",
            _remarks(manifest),
        ]
        for manifest in run.manifests
    ]
    header = ["Stage", "Seconds", "CPU hours", "GPU hours"]
    caption = (
        "In the order the stages finished. Hours are of resources held. The seconds of stages that "
        "ran at the same time are added up."
    )
    if any(_is_elastic(pool) for pool in pools.values()):
        caption += " Pools of several sizes are counted at their largest."
    if _has_prices(pools):
        header.append("Cost")
        caption += (
            f" Cost is {pools['gpu_hour_price']:g} per GPU-hour and "
            f"{pools['cpu_hour_price']:g} per CPU-hour."
        )
    header += ["Prompt tokens", "Completion tokens", "Rows in", "Rows out", "Set aside, paid"]
    rows.append(["All stages", *_resource_cells(total, pools), "", "", ""])
    table = Table(header, rows, caption)
    return [*([table] if run.manifests else []), *_teacher_blocks(run), *_paid_blocks(run)]


def _paid_blocks(run: Contents) -> list[Block]:
    """What endpoints were paid in all, where there was one."""
    facts = [manifest.get("facts", {}) for manifest in run.manifests]
    sentences = []
    for who, plural in (("teacher", "Teachers"), ("judge", "Judges")):
        paid, untold = (
            sum(one.get(f"{who}_{name}", 0) for one in facts) for name in ("paid", "answers_untold")
        )
        if paid:
            sentences.append(f"{plural} behind endpoints were paid {paid:,.4f} in all")
            groups = next((one for one in run.manifests if one["stage"] == "groups"), {})
            told = groups.get("facts", {})
            lost = told.get("teacher_paid", 0.0) - told.get("cost", 0.0)
            if who == "teacher" and lost > 1e-9:
                sentences[-1] += f", of which {lost:,.4f} for answers that are not kept"
            sentences[-1] += "."
        if untold:
            sentences.append(
                f"{untold:,} of their answers broke off or did not tell their usage; what those "
                "cost is in no figure here."
            )
    return [Text(" ".join(sentences))] if sentences else []


def _teacher_blocks(run: Contents) -> list[Block]:
    """Who wrote the groups, where there were several teachers or one was paid."""
    teachers = read_teachers(run.stages["groups"]) if "groups" in run.stages else {}
    if len(teachers) < 2 and not any(teacher.cost for teacher in teachers.values()):
        return []
    rows: list[list[Cell | str]] = [
        [
            Path(name).name,
            f"{teacher.num_groups:,.0f}",
            f"{teacher.num_completions:,.0f}",
            percent(teacher.num_correct / max(teacher.num_completions, 1)),
            f"{teacher.prompt_tokens:,.0f}",
            f"{teacher.num_tokens:,.0f}",
            f"{teacher.cost:,.4f}",
        ]
        for name, teacher in teachers.items()
    ]
    header = ["Teacher", "Groups", "Completions", "Correct %", "Prompt tokens"]
    caption = "Paid: tokens as the server counted them, at the recipe's prices."
    return [Table([*header, "Completion tokens", "Paid"], rows, caption)]


def _remarks(manifest: dict[str, Any]) -> str:
    """Rows set aside and why; of a schedule that was longer than the data, the share used."""
    remarks = [f"{n:,} {reason.replace('_', ' ')}" for reason, n in manifest["set_aside"].items()]
    facts = manifest.get("facts", {})
    if facts.get("steps", 0) < facts.get("planned_steps", 0):
        remarks.append(f"used {facts['steps']:,} of {facts['planned_steps']:,} planned steps")
    if "micro_batch_tokens" in facts:
        remarks.append(f"memory was short: micro-batches of {facts['micro_batch_tokens']:,} tokens")
    paid = facts.get("teacher_paid", 0.0) + facts.get("judge_paid", 0.0)
    remarks += [f"paid {paid:,.4f}"] if paid else []
    return ", ".join(remarks) or "0"


def _is_elastic(pool: Any) -> bool:
    own = pool if isinstance(pool, list) else [pool]
    return any(isinstance(one, dict) and one.get("min_workers") for one in own)


def _has_prices(pools: Mapping[str, Any]) -> bool:
    return bool(pools["gpu_hour_price"] or pools["cpu_hour_price"])


def _resource_cells(numbers: Mapping[str, float], pools: Mapping[str, Any]) -> list[Cell | str]:
    cost = (
        numbers["gpu_hours"] * pools["gpu_hour_price"]
        + numbers["cpu_hours"] * pools["cpu_hour_price"]
    )
    return [
        f"{numbers['seconds']:,.1f}",
        f"{numbers['cpu_hours']:,.3f}",
        f"{numbers['gpu_hours']:,.3f}",
        *([f"{cost:,.2f}"] if _has_prices(pools) else []),
        f"{numbers['prompt_tokens']:,}",
        f"{numbers['completion_tokens']:,}",
    ]
