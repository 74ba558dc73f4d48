"""What a teacher wrote for training problems -> programs that were run and judged."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa

from fastdistill_ray.agents.extraction import Called, Program
from fastdistill_ray.agents.knobs import LimitKnobs, WritingKnobs
from fastdistill_ray.agents.sandbox import ToolFault, ToolProcess
from fastdistill_ray.agents.scripted import program
from fastdistill_ray.records import Problem
from fastdistill_ray.run_files import ANSWERS, StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet, write_parquet
from fastdistill_ray.tasks.problem_file import ProblemFile
from fastdistill_ray.verifiers import Judge, VerifierKnobs

TRACES = "traces.parquet"
TRACES_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("k", pa.int32()),
        ("question", pa.string()),
        ("source", pa.string()),  # "": the teacher wrote no block of Python
        ("answer", pa.string()),  # JSON of what it came to; "": it failed
        ("calls", pa.string()),  # JSON of what it called
        ("verdict", pa.string()),
        ("reason", pa.string()),
    ]
)
PROCESSES = 4  # programs that run at once
BLOCK = re.compile(r"^```[ \t]*(\w*)[^`\n]*\n(.*?)^```", re.S | re.M)
PYTHON = frozenset({"python", "py", "python3"})


class Text(NamedTuple):
    """The k-th completion for a problem."""

    problem: Problem
    k: int
    text: str


def scripted_texts(problems: ProblemFile, knobs: WritingKnobs) -> Iterator[Text]:
    for problem in problems:
        for k in range(knobs.n):
            yield Text(problem, k, program(problem, knobs.seed, k))


def asked_texts(problems: ProblemFile, answers: Place) -> Iterator[Text]:
    """Of the folder in which a model's answers are."""
    by_id = {problem.problem_id: problem for problem in problems}
    table = read_parquet(answers / ANSWERS, ["problem_id", "k", "text"])
    for row in sorted(table.to_pylist(), key=lambda row: (row["problem_id"], row["k"])):
        yield Text(by_id[row["problem_id"]], row["k"], row["text"])


def write_traces(
    texts: Iterable[Text], limits: LimitKnobs, verifier: VerifierKnobs, *, out: Place
) -> StageResult:
    """Runs each text's program in a limited process; its variable `answer` is judged. Rows out are
    those that are correct."""
    with Judge(verifier) as judge, ThreadPoolExecutor(PROCESSES) as pool:
        rows = list(pool.map(lambda one: trace(one, limits, judge), texts))
    write_parquet(pa.Table.from_pylist(rows, schema=TRACES_SCHEMA), out / TRACES)
    verdicts = Counter(row["verdict"] for row in rows)
    correct = verdicts.pop("correct", 0)
    return StageResult(len(rows), correct, dict(verdicts))


def trace(one: Text, limits: LimitKnobs, judge: Judge) -> dict[str, Any]:
    """A row of TRACES_SCHEMA. The verdict `failed` says that there is no answer to judge."""
    source = source_in(one.text)
    row = {"problem_id": one.problem.problem_id, "k": one.k, "question": one.problem.question}
    row |= {"source": source, "answer": "", "calls": "[]"}
    if not source:
        return {**row, "verdict": "failed", "reason": "no block of Python"}
    try:
        with ToolProcess(source, limits, is_trace=True) as process:
            answer, calls = _read(process.start())
    except ToolFault as fault:
        return {**row, "verdict": "failed", "reason": str(fault)}
    text = f"<answer>\\boxed{{{answer}}}</answer>"
    judgement = judge.judge_row(vars(one.problem), text, "stop")
    found = {"answer": json.dumps(answer), "calls": json.dumps(calls)}
    return {**row, **found, "verdict": judgement.verdict, "reason": judgement.reason}


def source_in(text: str) -> str:
    """The blocks that say they are Python; where none does, those that say nothing."""
    blocks = [(tag.lower(), block) for tag, block in BLOCK.findall(text)]
    said = [block for tag, block in blocks if tag in PYTHON]
    return "\n".join(said or [block for tag, block in blocks if not tag])


def _read(said: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The answer and the calls; ToolFault where the program wrote something else in their place."""
    calls = said.get("calls") if isinstance(said, dict) else None
    if not isinstance(calls, list) or "answer" not in said:
        raise ToolFault("its process wrote what is no trace")
    for call in calls:
        if not isinstance(call, dict) or call.keys() != set(Called._fields):
            raise ToolFault("its process wrote what is no trace")
        if not isinstance(call["function"], str) or not isinstance(call["arguments"], dict):
            raise ToolFault("its process wrote what is no trace")
    return said["answer"], calls


def programs_in(traces: Place) -> Iterator[Program]:
    """Those that are correct."""
    for row in read_parquet(traces / TRACES).to_pylist():
        if row["verdict"] == "correct":
            calls = [Called(**call) for call in json.loads(row["calls"])]
            answer = json.loads(row["answer"])
            yield Program(row["problem_id"], row["question"], row["source"], calls, answer)
