"""How far students are from their teacher on texts of their own: reverse KL on held-out prompts.

    python -m benchmarks.reverse_kl RUN [RUN ...] [--students sft sampled] [--problems 50]
                                    [--n 4] [--json FILE]

Every student of the run folders (or those named), and the base, writes `n` texts of each of the
first test problems at temperature 1, by vLLM. Each token of them is then read by the student behind
its own prompt and by the teacher behind the teacher's, both in float32 by transformers, and the KL
of the student's whole distribution to the teacher's is taken at each token, exactly. `reverse_kl`
is its mean over all tokens, with the 95 % interval of a bootstrap over problems; `sampled` the mean
of the log-ratio of the tokens that were drawn, whose expectation is the same. Each model runs in a
process of its own.
"""

import argparse
import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import make_parser, print_rows, run_fresh, write_json
from fastdistill_ray.api import Run
from fastdistill_ray.generation.knobs import EngineKnobs
from fastdistill_ray.generation.requests import build_requests
from fastdistill_ray.generation.vllm_engine import engine_arguments
from fastdistill_ray.models import fetch_model, tokenizer_of
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run_files import stage_folders
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile

BASE = "base"
RESAMPLES = 2_000


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
def logprobs(model: Any, prompt: list[int], texts: list[list[int]]) -> list[torch.Tensor]:
    """[T, V] of each text; the prompt is read once."""
    before = model(input_ids=torch.tensor([prompt[:-1]]), use_cache=True).past_key_values
    before.batch_repeat_interleave(len(texts))
    width = max(map(len, texts))
    ids = [[prompt[-1], *text[:-1], *[0] * (width - len(text))] for text in texts]
    logits = model(input_ids=torch.tensor(ids), past_key_values=before).logits
    found = torch.log_softmax(logits.float(), -1)
    return [rows[: len(text)] for rows, text in zip(found, texts, strict=True)]


def measure(run: str, student: str, num_problems: int, n: int) -> list[Any]:
    """Of one model: the sums of both over the tokens of each problem's texts, and their number."""
    from transformers import AutoModelForCausalLM

    recipe = load_recipe(str(Path(run) / "recipe.yaml"), [])
    base = recipe.student.reference  # as students begin
    file = ProblemFile(stage_folders(Place(run))["problems"] / "test.parquet")
    problems = list(islice(file, num_problems))
    folder = fetch_model(base) if student == BASE else Run(run).students[student]
    asked = {}
    for who, side in (("student", recipe.student), ("teacher", recipe.teacher)):
        tokenizer = tokenizer_of(side.model)
        asked[who] = build_requests(problems, side.prompt, tokenizer, seed=0)
    texts = write(recipe, folder, asked["student"], n)
    folders = {"student": folder, "teacher": fetch_model(recipe.teacher.model)}
    models = {
        who: AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
        for who, place in folders.items()
    }
    rows = []
    for place, of_problem in enumerate(texts):
        prompts = {who: requests[place]["prompt_token_ids"] for who, requests in asked.items()}
        own = logprobs(models["student"], prompts["student"], of_problem)
        its = logprobs(models["teacher"], prompts["teacher"], of_problem)
        exact = sampled = 0.0
        for text, q, p in zip(of_problem, own, its, strict=True):
            exact += float((q.exp() * (q - p)).sum())
            drawn = torch.tensor(text)[:, None]
            sampled += float((q.gather(1, drawn) - p.gather(1, drawn)).sum())
        rows.append((exact, sampled, sum(map(len, of_problem))))
    return rows


def summarised(rows: list[Any]) -> dict[str, Any]:
    exact, sampled, tokens = map(np.array, zip(*rows, strict=True))
    draws = np.random.default_rng(0).integers(0, len(tokens), (RESAMPLES, len(tokens)))
    means = exact[draws].sum(1) / tokens[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "tokens": int(tokens.sum()),
        "reverse_kl": round(float(exact.sum() / tokens.sum()), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "sampled": round(float(sampled.sum() / tokens.sum()), 4),
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
    rows = []
    for run in map(os.path.abspath, arguments.runs):
        wanted = arguments.students or sorted(Run(run).students)
        for student in [BASE, *wanted]:
            options = ("--problems", str(arguments.problems), "--n", str(arguments.n))
            printed = run_fresh("benchmarks.reverse_kl", run, "--only", student, *options)
            found = json.loads(printed.splitlines()[-1])
            rows.append({"run": run, "student": student} | summarised(found))
            print_rows(rows[-1:])
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
