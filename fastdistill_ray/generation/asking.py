"""The actor that holds an engine: it takes numbers of requests as it has room for them, and gives
answers back as they come.

Its engine runs in a thread of its own, so that the actor can say that it lives, and where it is,
whatever the engine does.
"""

import asyncio
import concurrent.futures
import contextlib
import faulthandler
import os
import shutil
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray
from ray.exceptions import RayError

from fastdistill_ray.cluster.deaths import was_short_of_memory
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.endpoint import EndpointEngine
from fastdistill_ray.generation.knobs import EngineSpec
from fastdistill_ray.generation.outputs import EngineDiedError, RawCompletion
from fastdistill_ray.generation.requests import Requests
from fastdistill_ray.generation.scripted import ScriptedEngine
from fastdistill_ray.generation.vllm_engine import VLLMEngine
from fastdistill_ray.verifiers import Judge

ENGINES = {"vllm": VLLMEngine, "scripted": ScriptedEngine, "endpoint": EndpointEngine}
BEAT_SECONDS = 5.0


class Asking:
    """Ray Data UDF: a seat -> bundles of request rows with what an engine says, until none is
    handed out.

    `start` is called once in the actor and returns its engine: an async function of a table of
    request rows that returns rows with a column `failure`; `model` is what errors call it.
    `in_flight` requests are asked at once; answers are given back at most once in `interval`
    seconds.
    """

    def __init__(
        self,
        model: str,
        start: Callable[[], Any],
        requests: ray.ObjectRef,
        dispenser: Any,
        in_flight: int,
        interval: float,
    ) -> None:
        self.dispenser, self.in_flight, self.interval = dispenser, in_flight, interval
        self.me = ray.get_runtime_context().get_actor_id() or "here"
        self.requests: Requests = ray.get(requests)
        self.engine = None
        self.running: dict[concurrent.futures.Future, int] = {}
        self.given: pa.Table | None = None  # what is being handed over
        if not self._call("begin", self.me, was_short_of_memory()):
            return
        try:
            self.requests.take(np.arange(1))  # loads the tokenizer before an engine waits for it
            self.engine = start()
        except Exception as error:  # noqa: BLE001  whatever it is, the user is told
            self._stop(error, f"the engine of {model} does not start: ")
            return
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()
        self._call("enter", self.me)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        self._call("take_seat", self.me)
        if self.engine is None:
            return
        try:
            yield from self._answers()
        except GeneratorExit:
            # Ray could not take over what was given, as where its memory for objects and the disk
            # it spills to are full: it is given again in another seat.
            time.sleep(BEAT_SECONDS)
            with contextlib.suppress(RayError):  # of a dispenser that has ended with its run
                self._call("lose_seat", self.me)
            raise

    def _answers(self) -> Iterator[pa.Table]:
        if self.given is not None:
            yield self.given
            self.given = None
        running = self.running
        done: dict[int, pa.Table] = {}
        failed: dict[int, str] = {}
        while True:
            want = self.in_flight - len(running)
            counts, numbers, is_abandoned = self._call("take", self.me, list(done), failed, want)
            for number in numbers:
                answer = asyncio.run_coroutine_threadsafe(self._ask(number), self.loop)
                running[answer] = number
            rows = [done[number] for number in counts if done[number].num_rows]
            done, failed = {}, {}
            if rows:
                self.given = bundle(pa.concat_tables(rows))
                yield self.given
                self.given = None
            if not running or is_abandoned:
                self._call("leave_seat", self.me)
                return
            taken = time.monotonic()
            ended, _ = concurrent.futures.wait(
                running, BEAT_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
            )
            if ended:
                time.sleep(max(0.0, taken + self.interval - time.monotonic()))
            for answer in [one for one in running if one.done()]:
                self._sort(running.pop(answer), answer, done, failed)

    async def _ask(self, number: int) -> pa.Table:
        rows = self.requests.take(np.array([number]))
        assert self.engine
        return await self.engine(rows) if rows.num_rows else rows

    def _sort(
        self,
        number: int,
        answer: concurrent.futures.Future,
        done: dict[int, pa.Table],
        failed: dict[int, str],
    ) -> None:
        try:
            rows = answer.result()
        except EngineDiedError as error:
            self._call("last_words", self.me, str(error))
            os._exit(1)  # Ray starts a fresh actor
        except Exception as error:  # noqa: BLE001  Ray Data would drop it
            self._stop(error, "")
            failed[number] = str(error)
            return
        failure = rows["failure"][0].as_py() if rows.num_rows else ""
        if failure:
            failed[number] = failure
        else:
            done[number] = rows

    def _stop(self, error: Exception, what: str) -> None:
        """Nothing more is asked: a fault of the user's is said in a line, one of ours in full."""
        if isinstance(error, UserError) or what:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            self._call("stop", f"{what}{said.removeprefix('UserError: ')}")
            traceback.print_exc()
        else:
            self._call("crash", traceback.format_exc())

    def _call(self, name: str, *args: Any) -> Any:
        return ray.get(getattr(self.dispenser, name).remote(*args))

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            with contextlib.suppress(RayError):
                told = (
                    getattr(self.engine, "num_answered", 0),
                    getattr(self.engine, "trouble", ""),
                )
                if self._call("beat", self.me, *told):
                    self._call("note_dump", self.me, stacks())


def start_writer(spec: EngineSpec) -> Any:
    """The engine that writes completions."""
    return ENGINES[spec.engine.kind](spec, partial(num_correct, Judge(spec.verifier)))


def stacks() -> str:
    """Where every thread of this process is, and its child processes where py-spy is installed."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        parts = [f"process {os.getpid()}\n{file.read()}"]
    spy = shutil.which("py-spy")
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError, subprocess.TimeoutExpired):
            parts.append(f"process {child.pid}: {child.name()}, {child.status()}")
            if spy:
                command = [spy, "dump", "--pid", str(child.pid)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=20)
                parts.append(done.stdout or done.stderr)
    return "\n".join(parts)


def num_correct(judge: Judge, row: dict[str, Any], completions: list[RawCompletion]) -> int:
    """How many of a request's completions are correct, for sampling.max_n and enough."""
    verdicts = [judge.judge_row(row, one.text, one.finish_reason).verdict for one in completions]
    return verdicts.count("correct")


def bundle(rows: pa.Table) -> pa.Table:
    """One row that holds them all: Ray Data, told to cut small blocks, would make each its own."""
    rows = rows.combine_chunks()
    columns = [column.combine_chunks() for column in rows.columns]
    structs = pa.StructArray.from_arrays(columns, fields=list(rows.schema))
    return pa.table({"rows": pa.ListArray.from_arrays([0, rows.num_rows], structs)})


def unbundle(batch: pa.Table) -> pa.Table:
    """The rows of all bundles of a batch."""
    return pa.Table.from_struct_array(batch["rows"].combine_chunks().flatten())
