"""How far students are from their teacher on texts of their own: reverse KL on held-out prompts.

    python -m benchmarks.reverse_kl RUN [RUN ...] [--students sft sampled] [--problems 50]
                                    [--n 4] [--json FILE]

The base and every student of the run folders (or those named, in that order), with all its seeds,
write `n` texts of each of the first test problems at temperature 1, by vLLM. Each token of them is
then read by the student behind its own prompt and by the teacher behind the teacher's, both in
float32 by transformers, and the KL of the student's whole distribution to the teacher's, over the
tokens that both heads have, is taken at each token, exactly. `reverse_kl` is its mean over all
tokens, with the 95 % interval of a bootstrap over problems and seeds; `sampled` the mean of the
log-ratio of the tokens that were drawn, whose expectation is the same. `minus` holds its
differences from those before it, the same problems drawn for both: value, ends of the interval,
two-sided p, not adjusted for their number. Each model runs in a process of its own; --json keeps
the sums of each problem too.
"""

import argparse
import json
import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import make_parser, print_rows, run_fresh, write_json
from fastdistill_ray.api import Run
from fastdistill_ray.evaluation.statistics import (
    ENDS,
    RESAMPLES_OF_A_TEST,
    interval,
    resampled,
    two_sided_p,
)
from fastdistill_ray.generation.knobs import EngineKnobs
from fastdistill_ray.generation.requests import build_requests
from fastdistill_ray.generation.vllm_engine import engine_arguments
from fastdistill_ray.models import fetch_model, tokenizer_of
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.records import Problem
from fastdistill_ray.run_files import stage_folders
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile

BASE = "base"
SEED = re.compile(r"(.+)-seed_\d+")  # the folder of a student's further seed
EXACT, SAMPLED, TOKENS = range(3)  # sums of a problem's texts


def write(recipe: Recipe, folder: str, rows: list[dict[str, Any]], n: int) -> list[list[list[int]]]:
    """`n` texts of the model in `folder` for each prompt, as token ids with the end of turn."""
    engine = recipe.evaluation.engine
    assert isinstance(engine, EngineKnobs)
    from vllm import LLM, SamplingParams

    model = LLM(**engine_arguments(folder, engine))
    sampling = {"n": n, "temperature": 1.0, "max_tokens": recipe.sampling.max_new_tokens}
    outputs = model.generate(
        [{"prompt_token_ids": row["prompt_token_ids"]} for row in rows],
        [SamplingParams(**sampling, seed=row["seed"]) for row in rows],
        use_tqdm=False,
    )
    model.llm_engine.engine_core.shutdown()
    return [[list(one.token_ids) for one in output.outputs] for output in outputs]


@torch.no_grad()
def logprobs(
    model: Any, prompt: list[int], texts: list[list[int]], num_tokens: int
) -> list[torch.Tensor]:
    """[T, V] of each text, over the first `num_tokens` of the vocabulary; the prompt is read
    once."""
    before = model(input_ids=torch.tensor([prompt[:-1]]), use_cache=True).past_key_values
    before.batch_repeat_interleave(len(texts))
    width = max(map(len, texts))
    ids = [[prompt[-1], *text[:-1], *[0] * (width - len(text))] for text in texts]
    logits = model(input_ids=torch.tensor(ids), past_key_values=before).logits[..., :num_tokens]
    found = torch.log_softmax(logits.float(), -1)
    return [rows[: len(text)] for rows, text in zip(found, texts, strict=True)]


def requests_of(
    recipe: Recipe, folder: str, problems: list[Problem]
) -> dict[str, list[dict[str, Any]]]:
    """The prompts of the student in `folder`, which may be of another model than the recipe's, and
    of the teacher."""
    sides = {"student": (folder, recipe.student), "teacher": (recipe.teacher.model, recipe.teacher)}
    return {
        who: build_requests(problems, side.prompt, tokenizer_of(model), seed=0)
        for who, (model, side) in sides.items()
    }


def measure(run: str, student: str, num_problems: int, n: int) -> list[Any]:
    """Of one model: the sums of both over the tokens of each problem's texts, and their number."""
    from transformers import AutoModelForCausalLM

    recipe = load_recipe(str(Path(run) / "recipe.yaml"), [])
    base = recipe.student.reference  # as students begin
    file = ProblemFile(stage_folders(Place(run))["problems"] / "test.parquet")
    problems = list(islice(file, num_problems))
    folder = fetch_model(base) if student == BASE else Run(run).students[student]
    asked = requests_of(recipe, folder, problems)
    texts = write(recipe, folder, asked["student"], n)
    folders = {"student": folder, "teacher": fetch_model(recipe.teacher.model)}
    models = {
        who: AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
        for who, place in folders.items()
    }
    rows = []
    for place, of_problem in enumerate(texts):
        prompts = {who: requests[place]["prompt_token_ids"] for who, requests in asked.items()}
        rows.append(sums_of(models, prompts, of_problem))
    return rows


def sums_of(
    models: dict[str, Any], prompts: dict[str, list[int]], texts: list[list[int]]
) -> tuple[float, float, int]:
    """EXACT, SAMPLED and TOKENS of one problem's texts, of what the student and the teacher say of
    them. Heads of one tokenizer may be padded to more rows than it has, each to its own number."""
    both = min(len(model.get_output_embeddings().weight) for model in models.values())
    own, its = (logprobs(models[who], prompts[who], texts, both) for who in ("student", "teacher"))
    exact = sampled = 0.0
    for text, q, p in zip(texts, own, its, strict=True):
        exact += float((q.exp() * (q - p)).sum())
        drawn = torch.tensor(text)[:, None]
        sampled += float((q.gather(1, drawn) - p.gather(1, drawn)).sum())
    return exact, sampled, sum(map(len, texts))


def student_of(folder: str) -> str:
    """Of a further seed too."""
    further = SEED.fullmatch(folder)
    return further[1] if further else folder


def mean(totals: np.ndarray, of: int = EXACT) -> np.ndarray:
    """[R, 3] totals -> [R], over all tokens."""
    return totals[:, of] / totals[:, TOKENS]


def summarised(table: np.ndarray, before: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of the [P, S, 3] sums of a student, beside those of the students before it."""
    found = interval(table, mean)
    assert found is not None
    totals = table.sum((0, 1))[None]
    minus = {}
    for name, other in before.items():
        own, its = resampled([table, other], RESAMPLES_OF_A_TEST)
        draws = mean(own) - mean(its)
        value = found[0] - mean(other.sum((0, 1))[None])[0]
        minus[name] = [round(float(x), 4) for x in (value, *np.percentile(draws, ENDS))]
        minus[name].append(round(two_sided_p(draws), 4))
    return {
        "seeds": table.shape[1],
        "tokens": int(totals[0, TOKENS]),
        "reverse_kl": round(found[0], 4),
        "interval": [round(end, 4) for end in found[1:]],
        "sampled": round(float(mean(totals, SAMPLED)[0]), 4),
        "each_seed": [round(float(x), 4) for x in mean(table.sum(0))],
        "minus": minus,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--students", nargs="+", help="all where none is named")
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--n", type=int, default=4, help="texts of each")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # this one, in this process
    arguments = parser.parse_args()
    if arguments.only:
        found = measure(arguments.runs[0], arguments.only, arguments.problems, arguments.n)
        print(json.dumps(found))
        return
    options = ("--problems", str(arguments.problems), "--n", str(arguments.n))
    rows = []
    for run in map(os.path.abspath, arguments.runs):
        folders = sorted(Run(run).students)
        wanted = arguments.students or sorted(set(map(student_of, folders)))
        tables: dict[str, np.ndarray] = {}
        for student in [BASE, *wanted]:
            seeds = [name for name in folders if student_of(name) == student] or [student]
            printed = [
                run_fresh("benchmarks.reverse_kl", run, "--only", seed, *options) for seed in seeds
            ]
            sums = [json.loads(of_seed.splitlines()[-1]) for of_seed in printed]
            table = np.array(sums).transpose(1, 0, 2)
            row = {"run": run, "student": student} | summarised(table, tables)
            print_rows([row])
            rows.append(row | {"sums": sums})
            tables[student] = table
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
