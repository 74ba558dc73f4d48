"""The reference pages that are made of the code: `GENERATED` names what a page may ask for.

Whatever the code has and these pages have no words for ends the build.
"""

import argparse
import ast
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import get_origin

import pyarrow as pa
from pydantic import BaseModel

from fastdistill_ray import records
from fastdistill_ray.agents import traces
from fastdistill_ray.cli import build_parser
from fastdistill_ray.evaluation import answers
from fastdistill_ray.groups import signals
from fastdistill_ray.knobs import models_in
from fastdistill_ray.recipe.fields import describe_fields
from fastdistill_ray.recipe.shapes import SHAPES
from fastdistill_ray.records import VERDICTS

MEANINGS = {
    "correct": "It is the reference's value, by exact rules or by sympy.",
    "wrong": "It is another value, or more than one.",
    "unparsable": "No answer is committed to, or it is not read.",
    "truncated": "The token limit cut the completion before it gave an answer.",
    "timeout": "It was not decided within `reward.verifier.time_limit` seconds of CPU time.",
    "error": "The judge or a reward failed, or the reference cannot be used; see `reason`.",
}
COLUMNS = {
    "problem_id": "never changes, unique in a run",
    "task": "that it is of, such as gsm8k",
    "split": "train, validation, test or ood",
    "question": "as the user would ask it",
    "reference": "the right answer",
    "kind": "number, math, choice, text, list or scored: who judges",
    "options": "of a choice",
    "scorer": "JSON by which kind scored is judged; empty for all others",
    "cluster": "shared by problems made from one another; empty: it has no such others",
    "messages": "the prompt, as a chat",
    "role": "system, user or assistant",
    "content": "its text",
    "template_hash": "of the chat template, system text and worked examples",
    "prompt_num_tokens": "tokens of the prompt",
    "teacher": "model that wrote the completions",
    "completions": "all that were drawn for the problem",
    "text": "the completion, special tokens left out",
    "token_ids": "as they were drawn; empty where the text alone is to be trusted",
    "num_tokens": "tokens of the completion",
    "seed": "with which it was drawn",
    "finish_reason": "stop, length, repetition (a loop) or abort",
    "verdict": "correct, wrong, unparsable, truncated, timeout or error",
    "answer": "what was read as the answer; empty: none",
    "reason": "why the verdict is what it is",
    "reward": "weighted sum of the scores; null: a score failed",
    "advantage": "of the reward within its group; null: it has none",
    "name": "of the score, such as cosine",
    "value": "of the score",
    "lenient_verdict": "the verdict where the last number of the text counts as an answer, too",
    "lenient_answer": "what that verdict read",
    "format_think": "whether there is one `<think>` block",
    "format_answer": "whether there is one `<answer>` block",
    "format_box": "whether the answer is in a `\\boxed{}`",
    "format_whole": "whether the whole text has the format that was asked for",
    "k": "place of the completion among those of its problem, from 0",
    "values": "log-probabilities, or shares of draws",
    "ids": "of tokens",
    "rest": "log-mass of all other tokens",
    "hidden": "states that the head reads",
    "sizes": "ids of each token",
    "counts": "how often each id was drawn",
    "row_scale": "of the state of each token",
    "column_scale": "of each number of the states",
}
TABLES = [  # a file of a stage, what a row of it is
    ("problems/<id>/<split>.parquet", "a problem", records.PROBLEM_SCHEMA),
    ("groups/<id>/part-*.parquet", "a problem with all its completions", records.GROUP_SCHEMA),
    (
        "answers/<model>-<id>/answers.parquet",
        "an answer to a tested problem",
        answers.ANSWERS_SCHEMA,
    ),
    (
        "answers/<model>-<id>/part-*.parquet",
        "a tested problem with all its answers",
        answers.ANSWERED_SCHEMA,
    ),
    (
        "traces/<id>/traces.parquet",
        "a program of a teacher, of `fastdistill box`",
        traces.TRACES_SCHEMA,
    ),
]
SIGNALS = [
    signals.Signal("chosen"),
    signals.Signal("random", 50),
    signals.Signal("topk", 64),
    signals.Signal("hidden", 16),
    signals.Signal("hidden", 8),
]


def cli() -> str:
    """The help of `fastdistill` and of each verb."""
    parser = build_parser()
    (verbs,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    parts = [f"```text\n{_help(parser)}```"]
    for verb, its in verbs.choices.items():
        parts.append(f"## {verb}\n\n```text\n{_help(its)}```")
    return "\n\n".join(parts)


def _help(parser: argparse.ArgumentParser) -> str:
    os.environ.update(COLUMNS="96", NO_COLOR="1")
    return parser.format_help()


def fields(job: str) -> str:
    parts: list[str] = []
    _sections("", "", SHAPES[job], {}, parts)
    return "\n\n".join(parts)


def _sections(
    key: str, kind: str, model: type[BaseModel], seen: dict[type, str], parts: list[str]
) -> None:
    """A table of a section's own fields, then its sections; one that stands elsewhere too is
    described once."""
    if parts:
        parts.append(f"{'##' if '.' not in key else '###'} {key}{f' of kind {kind}' * bool(kind)}")
    if model in seen:
        parts.append(f"The fields of `{seen[model]}`.")
        return
    seen[model] = key
    lines = [line for line in describe_fields((), model).splitlines() if "." not in _name(line)]
    rows = [_cells(line) for line in lines if not parts or _name(line) != "extends"]
    if rows:
        parts.append(_table(("field", "default", "meaning", "type"), rows))
    elif not parts:
        parts.append("")
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        many = ".NAME" if get_origin(field.annotation) is dict else ""
        own = f"{key}.{field.alias or name}".lstrip(".") + many
        if field.exclude:
            continue  # its row names the section that has its fields
        for one in inner:
            _sections(own, _kind(one) if len(inner) > 1 else "", one, seen, parts)


def _kind(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    return str(kind.default) if kind else model.__name__


def _name(line: str) -> str:
    return line.partition(" = ")[0]


def _cells(line: str) -> list[str]:
    """Of a line `name = default  Meaning [type]`."""
    name, _, rest = line.partition(" = ")
    at, depth = len(rest), 0
    for at in reversed(range(len(rest))):
        depth += {"]": 1, "[": -1}.get(rest[at], 0)
        if not depth:
            break
    default, _, meaning = rest[:at].partition("  ")
    if rest.startswith('"'):
        end = rest.index('"  ', 1) + 1
        default, meaning = rest[:end], rest[end:at]
    return [f"`{name}`", f"`{default.strip()}`", meaning.strip(), rest[at + 1 : -1]]


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *([_cell(one) for one in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    if text.startswith("`"):
        return text.replace("|", "\\|")
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def schemas() -> str:
    """Every table that a run folder keeps, with its columns."""
    words = {}
    for module in (signals, answers, traces, records):
        words |= _comments(module)
    tables = [(f"`stages/{where}`: a row is {row}.", schema) for where, row, schema in TABLES]
    lists = "a row is a group; lists are flat, over the tokens of all its completions in order."
    for signal in SIGNALS:
        schema = signals.schema_of(signal, vocabulary=49_152)
        tables.append((f"`stages/signals/{signal.name}-<id>/part-*.parquet`: {lists}", schema))
    parts = []
    for said, schema in tables:
        _, stage, folder, *_ = said.split("/")
        title = stage.capitalize()
        if stage == "signals":
            title += f": {folder.removesuffix('-<id>')}"
        elif schema is answers.ANSWERED_SCHEMA:
            title += ": the store"
        columns = _table(("column", "type", "meaning"), _columns(schema, words))
        parts.append(f"## {title}\n\n{said}\n\n{columns}")
    return "\n\n".join(parts)


def _columns(fields: object, words: dict[str, str], prefix: str = "") -> Iterator[tuple[str, ...]]:
    for field in fields:  # type: ignore[attr-defined]
        inner, kind = field.type, str(field.type)
        while pa.types.is_list(inner):
            inner = inner.value_type
        is_table = pa.types.is_struct(inner)
        if is_table:
            kind = "list of tables" if pa.types.is_list(field.type) else "table"
        name = prefix + field.name
        first, second = (words, COLUMNS) if prefix == "vote." else (COLUMNS, words)
        meaning = first.get(field.name) or second[field.name]
        kind = kind.replace("list<element: ", "list<").replace("list<item: ", "list<")
        yield f"`{name}`", f"`{kind}`", meaning
        if is_table:
            yield from _columns(inner, words, f"{name}.")


def _comments(module: ModuleType) -> dict[str, str]:
    """Column -> what the code says behind its line, where it does."""
    source = inspect.getsource(module)
    lines, found = source.splitlines(), {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Tuple) and node.elts and isinstance(node.elts[0], ast.Constant):
            _, mark, said = lines[(node.end_lineno or 1) - 1].partition("  # ")
            if mark:
                found.setdefault(str(node.elts[0].value), said)
    return found


def verdicts() -> str:
    rows = [(f"`{verdict}`", MEANINGS[verdict]) for verdict in VERDICTS]
    return _table(("verdict", "meaning"), rows)


GENERATED: dict[str, Callable[[], str]] = {
    "cli": cli,
    "schemas": schemas,
    "verdicts": verdicts,
    **{f"fields_{job}": lambda job=job: fields(job) for job in SHAPES},
}
