"""One method of benchmarks.generation in its own process: METHOD WORK OUT.

OUT tells the tokens it wrote, and when it started, had a ready engine, and had ended.
"""

import contextlib
import datetime
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastdistill_ray.models import fetch_model, load_tokenizer, tokenizer_of
from fastdistill_ray.recipe.loading import load_recipe
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.records import Problem
from fastdistill_ray.run_files import MANIFEST, read_json
from fastdistill_ray.tasks import load_problems

RECIPE = str(Path(__file__).parents[2] / "jobs/recipes/demo_full.yaml")
UNUSED_TOKEN = "<repo_name>"  # one of SmolLM2's that its text has no use for
READY = re.compile(r"INFO (\d\d-\d\d \d\d:\d\d:\d\d).*init engine")


def main() -> None:
    method, work, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    os.environ["VLLM_LOGGING_LEVEL"] = "INFO"  # says when the engine is ready
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_of(work, folder)
        found = {"vllm": run_vllm, "ray_llm": run_ray_llm, "ours": run_ours}[method](recipe, folder)
    Path(out).write_text(json.dumps(found), encoding="utf-8")


def recipe_of(work: dict[str, Any], folder: str) -> Recipe:
    """The demo's; for fixed lengths with a teacher that nothing but the limit ends."""
    overrides = [
        f"task.num_train={work['prompts']}",
        f"sampling.n={work['n']}",
        f"sampling.max_new_tokens={work['max_new_tokens']}",
        "selection.min_correct=0",
        "teacher.prompt.shots=[]",
    ]
    recipe = load_recipe(RECIPE, overrides)
    if work["lengths"] == "natural":
        return recipe
    model = endless_model(fetch_model(recipe.teacher.model), f"{folder}/model")
    return load_recipe(RECIPE, [*overrides, f"teacher.model={model}"])


def endless_model(source: str, target: str) -> str:
    """The same weights, ended by a token that is not drawn: what `ignore_eos` does."""
    shutil.copytree(source, target)
    token = load_tokenizer(target).convert_tokens_to_ids(UNUSED_TOKEN)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        file = Path(target) / name
        if file.exists():
            tree = json.loads(file.read_text(encoding="utf-8"))
            tree |= (
                {"eos_token_id": token} if "tokenizer" not in name else {"eos_token": UNUSED_TOKEN}
            )
            file.write_text(json.dumps(tree), encoding="utf-8")
    return target


def problems_of(recipe: Recipe) -> list[Problem]:
    return load_problems(recipe.task)["train"]


def requests_of(recipe: Recipe) -> list[dict[str, Any]]:
    from fastdistill_ray.generation.requests import build_requests

    tokenizer = tokenizer_of(recipe.teacher.model)
    return build_requests(
        problems_of(recipe), recipe.teacher.prompt, tokenizer, recipe.sampling.seed
    )


def sampling_of(recipe: Recipe, seed: int, n: int) -> dict[str, Any]:
    sampling = recipe.sampling
    return {
        "n": n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": seed,
    }


def run_vllm(recipe: Recipe, folder: str) -> dict[str, float]:
    from fastdistill_ray.generation.vllm_engine import engine_arguments

    requests = requests_of(recipe)
    start = time.time()
    arguments = engine_arguments(fetch_model(recipe.teacher.model), recipe.teacher.engine)
    from vllm import LLM, SamplingParams

    with output_to(Path(folder) / "log"):
        engine = LLM(**arguments)
    outputs = engine.generate(
        [{"prompt_token_ids": row["prompt_token_ids"]} for row in requests],
        [SamplingParams(**sampling_of(recipe, row["seed"], recipe.sampling.n)) for row in requests],
        use_tqdm=False,
    )
    end = time.time()
    engine.llm_engine.engine_core.shutdown()  # else its processes outlive the work
    ready = engine_ready([Path(folder) / "log"])
    tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
    return {"tokens": tokens, "start": start, "ready": ready, "end": end}


@contextlib.contextmanager
def output_to(file: Path) -> Iterator[None]:
    """Of this process and of those it starts meanwhile."""
    kept = [os.dup(stream) for stream in (1, 2)]
    with open(file, "w", encoding="utf-8") as opened:
        for stream in (1, 2):
            os.dup2(opened.fileno(), stream)
    try:
        yield
    finally:
        for stream, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, stream)


def run_ray_llm(recipe: Recipe, folder: str) -> dict[str, float]:
    import ray

    from fastdistill_ray.generation.vllm_engine import engine_arguments

    requests = requests_of(recipe)
    arguments = engine_arguments(fetch_model(recipe.teacher.model), recipe.teacher.engine)
    model = arguments.pop("model")
    start_ray()
    start = time.time()
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    little = {"num_cpus": 0.1}
    off = {"enabled": False}
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs=arguments,
        placement_group_config={"bundle_per_worker": {"CPU": 1, "GPU": 0}},
        accelerator_type=None,
        concurrency=1,
        log_engine_metrics=False,
        chat_template_stage=off,
        tokenize_stage=off,
        detokenize_stage=off,
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "tokenized_prompt": row["prompt_token_ids"],
            "sampling_params": sampling_of(recipe, row["seed"], 1),
        },
        postprocess=lambda row: {"num_tokens": row["num_generated_tokens"]},
        preprocess_map_kwargs=little,
        postprocess_map_kwargs=little,
    )
    asked = [
        {"prompt_token_ids": list(row["prompt_token_ids"]), "seed": row["seed"] + k}
        for row in requests
        for k in range(recipe.sampling.n)
    ]
    tokens = 0
    for row in processor(ray.data.from_items(asked)).iter_rows():
        tokens += int(row["num_tokens"])
    end = time.time()
    ready = engine_ready(ray_logs())
    return {"tokens": tokens, "start": start, "ready": ready, "end": end}


def run_ours(recipe: Recipe, folder: str) -> dict[str, float]:
    from fastdistill_ray.run.driver import quiet
    from fastdistill_ray.run.folder import RunFolder
    from fastdistill_ray.run.pipeline import generate_groups, prepare_problems

    quiet()
    run = RunFolder(f"{folder}/run", recipe)
    problems = prepare_problems(run)["train"]
    start_ray()
    start = time.time()
    manifest = read_json(generate_groups(run, problems) / MANIFEST, {})
    end = time.time()
    ready = engine_ready(ray_logs())
    return {"tokens": manifest["completion_tokens"], "start": start, "ready": ready, "end": end}


def start_ray() -> None:
    import ray

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  Ray's own spelling
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=500 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def ray_logs() -> list[Path]:
    """Of this Ray session's workers."""
    import ray

    return list(Path(ray._private.worker._global_node.get_logs_dir_path()).glob("worker-*"))


def engine_ready(logs: list[Path]) -> float:
    """When vLLM's log says so, to a second; the engine returns 1 to 2 s later."""
    found = [
        stamp
        for file in logs
        for stamp in READY.findall(file.read_text(encoding="utf-8", errors="replace"))
    ]
    year = datetime.datetime.now().year
    times = [datetime.datetime.strptime(f"{year}-{stamp}", "%Y-%m-%d %H:%M:%S") for stamp in found]
    assert len(times) == 1, f"one engine was to start, the logs tell of {len(times)}"
    return times[0].timestamp()


if __name__ == "__main__":
    main()
