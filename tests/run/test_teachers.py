"""One real vLLM engine for every way of drawing, a real `vllm serve`, a server that dies."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.head import KEY, KEY_VARIABLE
from support.jobs import (
    lines_of,
    run_job,
    stage_folder,
    start_job,
    tail_of,
    tiny_recipe,
    wait_for,
    write_recipe,
)
from support.models import CHAT_TEMPLATE, make_tiny_model
from support.servers import PROMPT_TOKENS, TOKENS_EACH, ChatProcess
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastdistill_ray.generation.asking import num_correct
from fastdistill_ray.generation.endpoint import EndpointEngine
from fastdistill_ray.generation.knobs import EndpointKnobs, EngineKnobs, EngineSpec, SamplingKnobs
from fastdistill_ray.generation.outputs import completion_logprobs
from fastdistill_ray.generation.requests import build_requests
from fastdistill_ray.generation.vllm_engine import RELOAD_COLUMN, VLLMEngine
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.records import REQUEST_SCHEMA, Problem
from fastdistill_ray.verifiers import Judge, VerifierKnobs

pytestmark = [pytest.mark.ray, pytest.mark.long]

PROBLEMS = [
    Problem(f"p{i}", "t", "train", f"Tom has {i} pens and buys 3 more.", "7", "number")
    for i in range(3)
]


class RealEngine:
    """A vLLM engine in this process; `ask` draws as told."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.runner = asyncio.Runner()
        knobs = EngineKnobs(
            max_model_len=512,
            max_num_seqs=16,
            dtype="float32",
            enforce_eager=True,
            cpu_kv_cache_gib=1,
        )
        spec = EngineSpec(model, knobs, SamplingKnobs(), VerifierKnobs())
        self.engine = self.runner.run(self._start(spec))
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    async def _start(self, spec: EngineSpec) -> VLLMEngine:
        return VLLMEngine(spec, partial(num_correct, Judge(VerifierKnobs())))

    def ask(
        self,
        seed: int = 0,
        prompt: PromptKnobs | None = None,
        end_id: int | None = None,
        **sampling,
    ) -> list[dict]:
        knobs = SamplingKnobs(**{"max_new_tokens": 24, **sampling})
        self.engine.spec = self.engine.spec._replace(sampling=knobs)
        rows = build_requests(PROBLEMS, prompt or PromptKnobs(), self.tokenizer, seed)
        rows = [row if end_id is None else {**row, "end_id": end_id} for row in rows]
        batch = pa.Table.from_pylist(rows, schema=REQUEST_SCHEMA)
        return self.runner.run(self.engine(batch)).to_pylist()

    def greedy(self) -> list[dict]:
        return [row["completions"][0] for row in self.ask(n=1, temperature=0.0)]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    real = RealEngine(make_tiny_model(str(tmp_path_factory.mktemp("tiny"))))
    yield real
    real.engine.engine.shutdown()
    real.engine.engine = None  # deleted here, not when the interpreter ends
    real.runner.close()  # ends the engine's tasks too, which else fail wherever they are collected


def ids_of(rows: list[dict]) -> list[list[list[int]]]:
    return [[one["token_ids"] for one in row["completions"]] for row in rows]


def test_engine_same_recipe_same_completions_and_no_two_alike(real):
    first, again = real.ask(n=4), real.ask(n=4)
    assert ids_of(first) == ids_of(again)
    for row in first:
        assert len({tuple(one["token_ids"]) for one in row["completions"]}) == 4
        assert [one["seed"] - row["seed"] for one in row["completions"]] == [0, 1, 2, 3]
    assert ids_of(real.ask(n=4, seed=1)) != ids_of(first)


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}])
def test_engine_narrowest_choice_is_the_greedy_one(real, narrow):
    greedy = [one["token_ids"] for one in real.greedy()]
    assert ids_of(real.ask(n=2, temperature=1.5, **narrow)) == [[ids, ids] for ids in greedy]
    assert ids_of(real.ask(n=2, temperature=1.5)) != [[ids, ids] for ids in greedy]


def test_engine_temperatures_alternate_inside_a_group(real):
    greedy = [one["token_ids"] for one in real.greedy()]
    mixed = ids_of(real.ask(n=3, temperatures=[1.5, 0.0, 1.5]))
    assert [row[1] for row in mixed] == greedy
    assert all(row[0] != row[1] != row[2] != row[0] for row in mixed)


def test_engine_stop_text_ends_a_completion_and_is_not_part_of_it(real):
    whole = real.greedy()
    text = whole[0]["text"]
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    (cut,) = real.ask(n=1, temperature=0.0, stop=[stop])[0]["completions"]
    assert cut["text"] == text[: text.index(stop)]
    assert (cut["finish_reason"], whole[0]["finish_reason"]) == ("stop", "length")
    assert cut["token_ids"] == [], "the student reads the text: the ids go on past the cut"
    assert 0 < cut["num_tokens"] < 24


def test_engine_ends_with_the_templates_token_and_its_text_begins_as_the_prompt_does(real):
    ids = real.greedy()[0]["token_ids"]
    end_id = ids[len(ids) // 2]
    (cut,) = real.ask(n=1, temperature=0.0, end_id=end_id)[0]["completions"]
    assert (cut["finish_reason"], cut["token_ids"]) == ("stop", ids[: ids.index(end_id) + 1])
    template = CHAT_TEMPLATE + "{% if add_generation_prompt %}<think>{{ '\\n' }}{% endif %}"
    for logprobs in (0, 2):
        opened = real.ask(n=2, prompt=PromptKnobs(template=template), logprobs=logprobs)
        for one in (one for row in opened for one in row["completions"]):
            assert one["text"].startswith("<think>\n")
            said = real.tokenizer.decode(one["token_ids"], skip_special_tokens=True)
            # vLLM leaves out a letter whose last bytes are not drawn.
            assert one["text"].removeprefix("<think>\n").rstrip("\ufffd") == said.rstrip("\ufffd")
            assert one["num_tokens"] == len(one["token_ids"])


def first_loop(ids: list[int], repeats: int) -> int:
    """Where the text first ends with the same 8 to 64 tokens that often in a row; 0: nowhere."""
    for end in range(len(ids) + 1):
        for size in range(8, 65):
            tail = ids[max(0, end - size * repeats) : end]
            if len(tail) == size * repeats and tail == tail[:size] * repeats:
                return end
    return 0


def test_engine_ends_a_loop_where_it_has_repeated_as_often_as_asked(real):
    """A tiny random model says the same for ever when it is greedy."""
    asked = {"n": 1, "temperature": 0.0, "max_new_tokens": 250}
    whole = [row["completions"][0]["token_ids"] for row in real.ask(**asked)]
    ended = [row["completions"][0] for row in real.ask(**asked, loop_repeats=3)]
    expected = [ids[: first_loop(ids, 3) or len(ids)] for ids in whole]
    assert any(len(ids) < 250 for ids in expected)
    assert [one["token_ids"] for one in ended] == expected
    reasons = ["repetition" if len(ids) < 250 else "length" for ids in expected]
    assert [one["finish_reason"] for one in ended] == reasons


def assert_logprobs_are_those_of(folder: str, rows: list[dict], tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    for row in rows:
        parts = completion_logprobs(
            np.array(row["logprob_ids"]),
            np.array(row["logprobs"]),
            [one["num_tokens"] for one in row["completions"]],
        )
        for one, (ids, logprobs) in zip(row["completions"], parts, strict=True):
            assert ids.shape == (24, 4)
            assert ids[:, 0].tolist() == one["token_ids"]
            assert one["text"] == tokenizer.decode(one["token_ids"], skip_special_tokens=True)
            prompt = row["prompt_token_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([prompt + one["token_ids"]])).logits[0]
            expected = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            taken = expected.gather(1, torch.from_numpy(ids.astype(np.int64)))
            np.testing.assert_allclose(logprobs, taken, atol=1e-4)
            best = expected.topk(3).values
            np.testing.assert_allclose(logprobs[:, 1:], best, atol=1e-4)


def test_engine_logprobs_are_those_of_transformers_at_temperature_one(real):
    rows = real.ask(n=2, temperature=0.7, logprobs=3)
    assert_logprobs_are_those_of(real.model, rows, real.tokenizer)


def test_engine_answers_each_row_with_the_weights_it_names(real, tmp_path):
    """Also where a task goes from one model's problems on to the next one's; a tied head too."""
    other = make_tiny_model(str(tmp_path / "other"), seed=7)
    sampling = {"n": 1, "logprobs": 3}
    own = real.ask(**sampling)
    rows = build_requests(PROBLEMS, PromptKnobs(), real.tokenizer, 0)
    batch = pa.Table.from_pylist(rows, schema=REQUEST_SCHEMA)
    batch = batch.append_column(RELOAD_COLUMN, pa.array([real.model, other, other]))
    answered = real.runner.run(real.engine(batch)).to_pylist()
    assert ids_of(answered[:1]) == ids_of(own[:1])
    assert_logprobs_are_those_of(other, answered[1:], real.tokenizer)
    assert ids_of(real.ask(**sampling)) == ids_of(own), "rows that name none: the teacher's"


def test_engine_takes_no_core_while_its_worker_computes(real):
    """A worker that is stopped stands for one in the middle of a step."""
    engine = real.engine.engine
    (started,) = engine.engine_core.resources.engine_manager.processes
    scheduler = psutil.Process(started.pid)
    worker = max(scheduler.children(), key=lambda process: process.memory_info().rss)

    async def cpu_seconds_of_waiting() -> float:
        again = ("exchange_weights", None, (real.model,))
        await engine.collective_rpc(*again)
        worker.suspend()
        try:
            waiting = asyncio.create_task(engine.collective_rpc(*again))
            await asyncio.sleep(0.2)
            before = sum(scheduler.cpu_times()[:2])
            await asyncio.sleep(0.6)
            used = sum(scheduler.cpu_times()[:2]) - before
            assert not waiting.done()
        finally:
            worker.resume()
        await waiting
        return used

    assert real.runner.run(cpu_seconds_of_waiting()) < 0.1


def test_engine_goes_on_to_the_limit_where_nothing_is_correct(real):
    rows = real.ask(n=2, max_n=5)
    assert [len(row["completions"]) for row in rows] == [5, 5, 5]
    assert ids_of(rows) == ids_of(real.ask(n=2, max_n=5))
    assert [ids[:2] for ids in ids_of(rows)] == ids_of(real.ask(n=2))


@contextlib.asynccontextmanager
async def serving(real: RealEngine) -> AsyncIterator[str]:
    """What `vllm serve` puts in front of an engine, with a key, in front of this one."""
    import uvicorn
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    asked = ("--model", real.model, "--served-model-name", "served", "--api-key", KEY)
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(asked)
    engine = real.engine.engine
    tasks = await engine.get_supported_tasks()
    app = build_app(arguments, tasks, engine.model_config)
    await init_app_state(engine, app.state, arguments, tasks)
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="error"))
    running = asyncio.create_task(server.serve())
    try:
        while not server.started:
            assert not running.done()
            await asyncio.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        await running


def test_endpoint_of_a_real_vllm_server_gives_n_seeded_completions(real, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    sampling = SamplingKnobs(n=4, max_new_tokens=20, top_k=50, min_p=0.001)
    rows = build_requests(PROBLEMS, PromptKnobs(), None, 0)
    batch = pa.Table.from_pylist(rows, schema=REQUEST_SCHEMA)

    async def ask(url: str) -> list[dict]:
        knobs = EndpointKnobs(url=url, api_key_env=KEY_VARIABLE)
        engine = EndpointEngine(
            EngineSpec("served", knobs, sampling, VerifierKnobs()),
            partial(num_correct, Judge(VerifierKnobs())),
        )
        try:
            return (await engine(batch)).to_pylist()
        finally:
            await engine.client.close()

    async def ask_twice() -> list[list[dict]]:
        async with serving(real) as url:
            return [await ask(url), await ask(url)]

    first, again = real.runner.run(ask_twice())
    for row, same in zip(first, again, strict=True):
        assert (row["failure"], len(row["completions"])) == ("", 4)
        texts = [one["text"] for one in row["completions"]]
        assert len(set(texts)) == 4
        assert texts == [one["text"] for one in same["completions"]], "the seeds reach the engine"
        assert sum(one["num_tokens"] for one in row["completions"]) == 80, (
            "a random model never ends"
        )
        assert {one["finish_reason"] for one in row["completions"]} == {"length"}
        assert row["prompt_num_tokens"] > 10


def read_groups(folder: Path) -> list[dict]:
    files = sorted(folder.glob("part-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.mark.slow
def test_two_teachers_one_of_whom_dies_keep_what_is_paid_for_and_go_on(tmp_path, head):
    """429s, 5xx, torn answers; the server is killed, the run ends with one line; a second run has
    every group once, each from one teacher, and the key is nowhere."""
    model = make_tiny_model(str(tmp_path / "model"))
    log, run = tmp_path / "chat.jsonl", tmp_path / "run"
    faults = ["", "429", "", "malformed", "", "cut", "", "500"]
    server = ChatProcess(log, [*faults, "hang"])
    engine = {"kind": "endpoint", "url": server.url, "api_key_env": KEY_VARIABLE}
    engine |= {"max_concurrency": 2, "give_up_after": 5.0, "price_completion": 1000.0}
    scripted = {"kind": "scripted", "max_model_len": 1024}
    recipe = tiny_recipe(
        model,
        teachers=[{"model": "served", "engine": engine, "share": 2.0}],
        teacher={"model": model, "engine": scripted},
        selection={"min_correct": 0},
    )
    try:
        job = start_job("generate", write_recipe(tmp_path, recipe), run, head)
        wait_for(lambda: len(lines_of(log)) >= len(faults) + 2, job)
        server.kill()
        assert job.wait() == 2, tail_of(run)
        (line,) = [x for x in Path(f"{run}.log").read_text().splitlines() if "error:" in x]
        assert "teacher served at http://127.0.0.1" in line and "start again to go on" in line
        groups = stage_folder(run, "groups")
        before = read_groups(groups)
        assert 0 < sum(row["teacher"] == "served" for row in before) < 16
        server.start([*faults, ""])
        run_job("generate", write_recipe(tmp_path, recipe), run, head)
    finally:
        server.kill()
    after = read_groups(groups)
    assert len(after) == len({row["problem_id"] for row in after}) == 24
    paid_for = {row["problem_id"]: row for row in before}
    assert {row["problem_id"]: row for row in after if row["problem_id"] in paid_for} == paid_for
    remote = [row for row in after if row["teacher"] == "served"]
    assert {row["teacher"] for row in after} == {"served", model}
    assert {len(row["completions"]) for row in after} == {4}
    assert {row["prompt_num_tokens"] for row in remote} == {PROMPT_TOKENS}
    manifest = json.loads((groups / "manifest.json").read_text())
    assert manifest["facts"]["cost"] == pytest.approx(len(remote) * 4 * TOKENS_EACH / 1000)
    sent = [entry for entry in lines_of(log) if entry["fault"] not in ("429", "500", "hang")]
    facts = manifest["facts"]
    assert facts["teacher_paid"] == pytest.approx(facts["cost"]), "every told answer was kept"
    told = sum(entry["fault"] == "" for entry in sent)
    assert facts.get("teacher_answers_untold", 0) >= len(sent) - told
    asked = [entry["body"]["seed"] for entry in lines_of(log) if entry["fault"] == ""]
    assert len(asked) == len(set(asked)), "none is paid twice"
    written = [path for path in run.rglob("*") if path.is_file()] + [Path(f"{run}.log")]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
