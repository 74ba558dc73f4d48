"""A small run folder with invented answers; every number in it follows from the rows beside it.

`PYTHONPATH=tests python -m support.run_folder FOLDER` writes one to look at.
"""

import json
import math
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.recipe.loading import dump_recipe, parse_recipe
from fastdistill_ray.records import PROBLEM_SCHEMA

HOSTILE = '<script>alert("$x$")</script> & <think>'
RECIPE = {
    "name": "synthetic",
    "task": {"name": "word_problems", "num_train": 64, "num_validation": 24},
    "teacher": {
        "model": "smollm2-135m-instruct",
        "prompt": {"shots": [{"question": "1 + 1?", "answer": "<think>2</think>"}] * 4},
    },
    "student": {"model": "smollm2-135m-instruct"},
    "objective": {"kind": "advdistill"},
    "training": {"epochs": 2, "groups_per_step": 4},
    "compare": {
        "students": [{"kind": "sft"}],
        "baselines": ["base", "base_plain", "teacher"],
        "learning_rates": [2.0e-5, 5.0e-5],
        "epochs": [1, 2],
    },
}
# Of each model: chance of a right number, of the format, mean tokens of an answer.
SKILL = {
    "base_plain": (0.20, 0.0, 92.0),
    "base": (0.24, 0.02, 88.0),
    "teacher": (0.38, 0.80, 52.0),
    "sft": (0.71, 0.99, 44.0),
    "advdistill": (0.68, 0.98, 40.0),
}
NUM_PROBLEMS = {"train": 64, "validation": 24, "test": 120, "ood": 120}
NUM_COMPLETIONS = 8
TRIALS = [
    (student, rate, epoch)
    for student in ("sft", "advdistill")
    for rate, epoch in product((2.0e-5, 5.0e-5), (1, 2))
]
CHOSEN = {"sft": (5.0e-5, 2), "advdistill": (5.0e-5, 2)}


def make_run(folder: str | Path, skill: dict[str, tuple[float, float, float]] = SKILL) -> str:
    """Writes the whole run folder and returns its path."""
    path = Path(folder)
    rng = np.random.default_rng(0)
    problems = {split: _problems(split, count, rng) for split, count in NUM_PROBLEMS.items()}
    _write_text(path / "recipe.yaml", dump_recipe(parse_recipe(RECIPE, "synthetic")))
    memory = {"weights": 2**29, "activations": 3 * 2**28, "micro_batch_tokens": 512}
    _write_json(path / "memory.json", {"HuggingFaceTB/SmolLM2-135M-Instruct": memory})
    _write_json(path / "versions.json", {"python": "3.11.2", "ray": "2.60.0", "git": "0123abc"})
    for split, rows in problems.items():
        _write_rows(path / f"stages/problems/0/{split}.parquet", rows, PROBLEM_SCHEMA)
    groups = [_group(problem, rng) for problem in problems["train"]]
    write_store(path / "stages/groups/0", groups, per_file=24)
    answers = {}
    for model, knobs in skill.items():
        answers[model] = [
            _answer(problem, model, knobs, rng)
            for split in ("test", "ood")
            for problem in problems[split]
        ]
        _write_rows(path / f"stages/answers/{model}-0/answers.parquet", answers[model], None)
    _write_trainings(path, rng)
    _write_json(path / "results.json", _results(answers))
    _write_manifests(path, groups, answers)
    return str(path)


def _problems(split: str, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    top = 90 if split == "ood" else 20
    rows = []
    for i in range(count):
        a, b = (int(x) for x in rng.integers(2, top, 2))
        question = f"Ada has {a} shells. She finds {b} more. How many shells does she have now?"
        if i == 0:
            question += f" {HOSTILE}"
        rows.append(
            {
                "problem_id": f"{split}-{i:04d}",
                "task": "word_problems",
                "split": split,
                "question": question,
                "reference": str(a + b),
                "kind": "number",
                "options": [],
            }
        )
    return rows


def _text(problem: dict[str, Any], is_right: bool, is_formatted: bool, shift: int) -> str:
    number = int(problem["reference"]) + (0 if is_right else shift)
    if is_formatted:
        work = f"<think>She has the shells she had and those she found: {number}.</think>"
        return f"{work}\n<answer>\\boxed{{{number}}}</answer>"
    return f"Let us add the shells up. {HOSTILE} The answer is {number}."


def _group(problem: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    chance = rng.choice([0.05, 0.4, 0.6, 0.97], p=[0.25, 0.3, 0.3, 0.15])
    right = rng.random(NUM_COMPLETIONS) < chance
    formatted = rng.random(NUM_COMPLETIONS) < 0.85
    tokens = np.clip(rng.normal(np.where(right, 42, 58), 11), 12, 128).astype(int)
    cosine = 0.5 * np.cos(np.pi * tokens / 2048) * 0.5 + np.where(right, 0.75, -0.25)
    rewards = 2 * cosine + formatted
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    completions = [
        make_completion(
            _text(problem, bool(right[k]), bool(formatted[k]), 1 + k),
            finish_reason="length" if tokens[k] == 128 else "stop",
            num_tokens=int(tokens[k]),
            seed=k,
            verdict="correct" if right[k] else ("wrong" if formatted[k] else "unparsable"),
            answer=problem["reference"] if right[k] else "0",
            scores=[{"name": "format", "value": float(formatted[k])}],
            reward=float(rewards[k]),
            advantage=float(advantages[k]),
        )
        for k in range(NUM_COMPLETIONS)
    ]
    return make_group(
        completions=completions,
        **problem,
        messages=[{"role": "user", "content": problem["question"]}],
        template_hash="cafe",
        prompt_num_tokens=300,
        teacher="smollm2-135m-instruct",
        dropped="" if right.any() else "too_few_correct",
    )


def _answer(
    problem: dict[str, Any],
    model: str,
    knobs: tuple[float, float, float],
    rng: np.random.Generator,
) -> dict[str, Any]:
    chance, form, length = knobs
    harder = 0.75 if problem["split"] == "ood" else 1.0
    is_right = bool(rng.random() < chance * harder)
    is_formatted = bool(rng.random() < form)
    tokens = int(np.clip(rng.normal(length * (0.9 if is_right else 1.2), length / 5), 8, 256))
    lenient = "correct" if is_right else "wrong"
    return {
        **problem,
        "model": model,
        "k": 0,
        "text": _text(problem, is_right, is_formatted, 3),
        "num_tokens": tokens,
        "prompt_num_tokens": 120,
        "finish_reason": "length" if tokens > 128 else "stop",
        "verdict": lenient if is_formatted else "unparsable",
        "answer": problem["reference"] if is_right else "0",
        "reason": "",
        "lenient_verdict": lenient,
        "lenient_answer": problem["reference"] if is_right else "0",
        "format_think": is_formatted,
        "format_answer": is_formatted,
        "format_box": is_formatted,
        "format_whole": is_formatted,
    }


def _write_trainings(path: Path, rng: np.random.Generator) -> None:
    trials = []
    num_steps = NUM_PROBLEMS["train"] // 4 * 2
    for student in ("sft", "advdistill"):
        for rate in (2.0e-5, 5.0e-5):
            lines = []
            for step in range(1, num_steps + 1):
                ce = 0.9 * math.exp(-step * rate * 3000) + 0.25 + 0.04 * rng.random()
                line = {"step": step, "epoch": (step - 1) * 2 // num_steps, "loss/ce": ce}
                if student == "advdistill":
                    line["loss/contrastive"] = 1.3 - 0.69 * step / num_steps + 0.05 * rng.random()
                line["train/loss"] = ce + 0.5 * line.get("loss/contrastive", 0.0)
                warm = min(1.0, step / 2) * 0.5 * (1 + math.cos(math.pi * step / num_steps))
                if step % 4 == 0:
                    line |= {"held_out/loss": line["train/loss"] + 0.1}
                    line |= {"held_out/loss/ce": ce + 0.1}
                    line |= {"held_out/likelihood_correct": 0.5 + step / 200}
                    line |= {"held_out/weighted_likelihood_wrong": 0.5 - step / 200}
                line |= {"train/learning_rate": rate * warm, "train/grad_norm": 1.0}
                line |= {"train/trained_tokens": 900, "train/unique_tokens": 1300}
                line |= {"train/row_tokens": 3700, "train/computed_tokens": 1400}
                line |= {"memory/peak_gib": 3.0 + 0.01 * step}
                lines.append(json.dumps(line | {"train/num_groups": 4, "time/step": 5.0}))
            file = path / f"stages/train/{student}-lr_{rate:g}-0/metrics.jsonl"
            _write_text(file, "\n".join(lines) + "\n")
    for place, (student, rate, epoch) in enumerate(TRIALS):
        trials.append(
            {
                "student": student,
                "learning_rate": rate,
                "seed": None,
                "epoch": epoch,
                "validation_accuracy": (9 + place) / 24,
                "num_problems": 24,
                "seconds": 60.4 * epoch,
                "trained_tokens": 9876 * epoch,
                "chosen": (rate, epoch) == CHOSEN[student],
            }
        )
    _write_json(path / "choose.json", {"trials": trials})


def _results(answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    rows, differences = [], []
    splits = ("test", "ood")
    for model, split in product(answers, splits):
        mine = [row for row in answers[model] if row["split"] == split]
        key = {"model": model, "split": split, "num_problems": len(mine)}
        key["num_clusters"] = len(mine)
        for metric, values in _metrics(mine).items():
            rows.append({**key, "metric": metric, **values})
    if "advdistill" in answers:
        for minus, split in product([m for m in answers if m != "advdistill"], splits):
            key = {"model": "advdistill", "minus": minus, "split": split}
            for metric, name in (("accuracy", "lenient_verdict"), ("strict_accuracy", "verdict")):
                pair = [_is_correct(answers[m], split, name) for m in ("advdistill", minus)]
                gap = pair[0] - pair[1]
                half = 1.96 * gap.std() / math.sqrt(len(gap))
                found = {"value": gap.mean(), "low": gap.mean() - half, "high": gap.mean() + half}
                differences.append({**key, "metric": metric, **found, "num_problems": len(gap)})
                p = math.erfc(abs(gap.mean()) / (gap.std() / math.sqrt(len(gap))) / math.sqrt(2))
                differences[-1] |= {"num_clusters": len(gap), "p": p, "p_holm": min(1.0, 8 * p)}
    costs = [
        {"model": model, "trained_tokens": 19752, "seconds": 120.8, "trials": 4}
        for model in answers
        if model in CHOSEN
    ]
    return {"rows": rows, "differences": differences, "costs": costs}


def _is_correct(rows: list[dict[str, Any]], split: str, name: str) -> np.ndarray:
    return np.array([row[name] == "correct" for row in rows if row["split"] == split], float)


def _metrics(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    shares = {
        "accuracy": [row["lenient_verdict"] == "correct" for row in rows],
        "strict_accuracy": [row["verdict"] == "correct" for row in rows],
        "template_adherence": [row["format_whole"] for row in rows],
        "template_think": [row["format_think"] for row in rows],
        "template_answer": [row["format_answer"] for row in rows],
        "template_box": [row["format_box"] for row in rows],
        "truncation_rate": [row["finish_reason"] == "length" for row in rows],
        "loop_end_rate": [row["finish_reason"] == "repetition" for row in rows],
        "degenerate_rate": [False for _ in rows],
    }
    tokens = np.array([row["num_tokens"] for row in rows], float)
    right = np.array(shares["strict_accuracy"])
    means = {
        "mean_tokens": _mean(tokens),
        "mean_tokens_correct": _mean(tokens[right]),
        "mean_tokens_wrong": _mean(tokens[~right]),
        "rep_4": 0.03,
        "rep_4_correct": 0.02,
        "rep_4_wrong": 0.05,
        "mean_loops": 0.02,
    }
    both = means["mean_tokens_correct"], means["mean_tokens_wrong"]
    means["verbosity_ratio"] = both[1] / both[0] if None not in both else None
    found = {name: _wilson(values) for name, values in shares.items()}
    return found | {n: {"value": v, "low": None, "high": None} for n, v in means.items()}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _wilson(values: list[bool]) -> dict[str, float | None]:
    n, p, z = len(values), sum(values) / len(values), 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return {"value": p, "low": max(0.0, centre - half), "high": min(1.0, centre + half)}


def _write_manifests(path: Path, groups: list[dict], answers: dict[str, list[dict]]) -> None:
    """Of every stage, and the graph that names their folders."""
    kept = sum(not group["dropped"] for group in groups)
    tokens = sum(c["num_tokens"] for group in groups for c in group["completions"])
    lost = {"too_few_correct": len(groups) - kept}
    stages = [
        ("problems", sum(NUM_PROBLEMS.values()), 0.4, 0, 0),
        ("groups", len(groups), 212.0, 300 * len(groups), tokens),
        *[(f"train/{s}-lr_{r:g}", kept, 120.8, 0, 0) for s, r, epoch in TRIALS if epoch == 2],
        *[(f"answers/{s}_lr_{r:g}_epoch_{e}", 24, 66.0, 2880, 1125) for s, r, e in TRIALS],
        *[
            (f"answers/{model}", len(rows), 36.1, 120 * len(rows), _num_tokens(rows))
            for model, rows in answers.items()
        ],
    ]
    for minute, (stage, rows_in, seconds, prompt_tokens, completion_tokens) in enumerate(stages):
        set_aside = lost if stage == "groups" else {}
        manifest = {
            "stage": stage,
            "rows_in": rows_in,
            "rows_out": rows_in - sum(set_aside.values()),
            "set_aside": set_aside,
            "seconds": seconds,
            "cpu_hours": seconds / 3600,
            "gpu_hours": 0.0,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "facts": {},
            "finished": f"2026-03-01T10:{minute:02d}:00+0000",
        }
        _write_json(path / folder_of(stage) / "manifest.json", manifest)
        sources = {"sections": {}, "inputs": _inputs(stage)}
        _write_json(path / folder_of(stage) / "stage.json", sources)
    _write_json(path / "graph.json", {stage: folder_of(stage) for stage, *_ in stages})


def _inputs(stage: str) -> dict[str, str]:
    """What it is made from: models and problems by revision, stages by folder."""
    kind, _, label = stage.partition("/")
    problems, model = {"the problems of task": "3737ccd7"}, "smollm@b179c952"
    if kind == "groups":
        return {"teacher.model": model, **problems}
    if kind == "train":
        return {"student.model": model, "groups": folder_of("groups")}
    if kind == "answers":
        found = re.fullmatch(r"(.+)_lr_([-+.e\d]+)_epoch_\d", label)
        chosen = CHOSEN.get(label)
        if found or chosen:
            student, rate = (found[1], found[2]) if found else (label, f"{chosen[0]:g}")
            model = f"{folder_of(f'train/{student}-lr_{rate}')}/epoch_1"
        return {"model": model, **problems}
    return {}


def folder_of(stage: str) -> str:
    """Of a stage by its name, from the run folder."""
    return f"stages/{stage}-0" if "/" in stage else f"stages/{stage}/0"


def _num_tokens(rows: list[dict[str, Any]]) -> int:
    return sum(row["num_tokens"] for row in rows)


def _write_rows(file: Path, rows: list[dict[str, Any]], schema: pa.Schema | None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def _write_json(file: Path, tree: dict[str, Any]) -> None:
    _write_text(file, json.dumps(tree, indent=1))


def _write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    print(make_run(sys.argv[1]))
