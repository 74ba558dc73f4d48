"""Tools of many programs -> one of each kind, tested on arguments that no program used.

Two tools are of one kind when they take the same sorts of arguments in the same order and give the
same for all that they are tried on (arXiv 2506.14728 lets a model group and merge them).
"""

import ast
import json
import math
import random
import string
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from fastdistill_ray.agents.extraction import Refused, Tool
from fastdistill_ray.agents.knobs import ToolsKnobs
from fastdistill_ray.agents.sandbox import ToolFault, ToolProcess

PROCESSES = 4  # in which tools are tried at once
MOST_EXAMPLES = 8  # of the programs' own calls, in a tool's tests
LARGEST = 10**15  # whole number that a tool takes: beyond, floats beside it are not told apart
FAULT = "fault"
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
Arguments = dict[str, Any]


class Case(NamedTuple):
    arguments: Arguments
    result: Any


class Merged(NamedTuple):
    """A tool of the box: one implementation of a kind."""

    name: str
    source: str
    description: str
    types: dict[str, str]  # JSON types by parameter; of an array `array of <type>`
    # A question, how it was called for it, and whether what it gave was the answer.
    example: tuple[str, Case, bool]
    tests: list[Case]
    problem_ids: list[str]
    names: list[str]  # what the programs called it


class Tried(NamedTuple):
    """A tool and what it gives for the arguments of its shape."""

    tool: Tool
    shape: tuple[str, ...]
    cases: list[Case]  # those that gave a value
    behaviour: str


def merge(tools: list[Tool], knobs: ToolsKnobs) -> tuple[list[Merged], list[Refused]]:
    """Tools in the order of their names, and those that were refused."""
    refused: list[Refused] = []
    shaped: dict[tuple[str, ...], list[Tool]] = {}
    for tool in tools:
        try:
            shaped.setdefault(shape_of(tool.arguments), []).append(tool)
        except TypeError as error:
            refused.append(Refused(tool.name, str(error), tool.problem_id))
    clusters: dict[tuple[tuple[str, ...], str], list[Tried]] = {}
    with ThreadPoolExecutor(PROCESSES) as pool:
        for shape, alike in shaped.items():
            tried = pool.map(lambda one: _try(*one), _trials(shape, alike, knobs))
            for tool, one in zip(alike, tried, strict=True):
                if isinstance(one, str):
                    refused.append(Refused(tool.name, one, tool.problem_id))
                else:
                    clusters.setdefault((one.shape, one.behaviour), []).append(one)
    merged = []
    taken: set[str] = set()
    for members in sorted(clusters.values(), key=lambda them: (-len(them), them[0].tool.name)):
        ids = sorted({one.tool.problem_id for one in members})
        if len(ids) < knobs.min_traces:
            reason = f"comes from fewer than {knobs.min_traces} problems"
            refused += [Refused(one.tool.name, reason, one.tool.problem_id) for one in members]
            continue
        try:
            found = _one_of(members, taken, knobs)
        except ToolFault as fault:
            refused += [Refused(one.tool.name, str(fault), one.tool.problem_id) for one in members]
            continue
        taken.add(found.name)
        merged.append(found)
    return sorted(merged, key=lambda one: one.name), refused


def shape_of(arguments: Arguments) -> tuple[str, ...]:
    """The sort of each argument; whole and other numbers are one sort. TypeError: a sort that no
    tool takes."""
    return tuple(type_of(value).replace("integer", "number") for value in arguments.values())


def type_of(value: Any) -> str:
    if isinstance(value, list):
        inner = {type_of(one) for one in value}
        inner = {"number"} if inner == {"number", "integer"} else inner
        if len(inner) == 1 and (only := inner.pop()) in TYPES.values():
            return f"array of {only}"
    elif type(value) in TYPES and not (isinstance(value, int) and abs(value) > LARGEST):
        return TYPES[type(value)]
    raise TypeError(f"takes what no tool takes: {json.dumps(value):.40}")


def _trials(
    shape: tuple[str, ...], tools: list[Tool], knobs: ToolsKnobs
) -> Iterator[tuple[Tool, tuple[str, ...], list[list[Any]], ToolsKnobs]]:
    """The same arguments for all tools of a shape."""
    used = [list(tool.arguments.values()) for tool in tools]
    rng = random.Random(f"{knobs.seed}/{shape}")
    drawn: list[list[Any]] = []
    while len(drawn) < knobs.num_arguments:
        one = [_drawn(rng, [row[place] for row in used]) for place in range(len(shape))]
        is_new = one not in used and one not in drawn
        if is_new or rng.random() < 0.01:  # where there are few, one comes again
            drawn.append(one)
    return ((tool, shape, drawn, knobs) for tool in tools)


def _drawn(rng: random.Random, used: list[Any]) -> Any:
    """An argument as those that were used, of their sizes."""
    like = rng.choice(used)
    if isinstance(like, bool):
        return rng.random() < 0.5
    if isinstance(like, int | float):
        most = max(9, *(abs(one) for one in used))
        sign = rng.choice([1, -1]) if any(one < 0 for one in used) else 1
        whole = round(math.exp(rng.uniform(math.log(2), math.log(most))))
        return sign * (whole if isinstance(like, int) else round(rng.uniform(1, most), 2))
    if isinstance(like, str):
        return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, max(3, len(like)))))
    return [_drawn(rng, [one for row in used for one in row]) for _ in range(rng.randint(2, 6))]


def _try(
    tool: Tool, shape: tuple[str, ...], drawn: list[list[Any]], knobs: ToolsKnobs
) -> Tried | str:
    """Why it is refused is a text."""
    with ToolProcess(tool.source, knobs) as process:
        try:
            own = process.call(tool.name, tool.arguments)
        except ToolFault as fault:
            return f"fails by itself: {fault}"
        if canonical(own) != canonical(tool.result):
            return "does not give its own result again"
        rows = [dict(zip(tool.arguments, values, strict=True)) for values in drawn]
        cases, said, faults = [], [], []
        for row in rows:
            try:
                cases.append(Case(row, process.call(tool.name, row)))
                said.append(canonical(cases[-1].result))
            except ToolFault as fault:
                if _is_over(fault):
                    return f"fails on held-out arguments: {fault}"
                said.append(FAULT)
                faults.append(str(fault))
        if 2 * len(faults) > len(rows):
            return f"fails on held-out arguments: {faults[0]}"
        try:
            again = [canonical(process.call(tool.name, case.arguments)) for case in cases]
        except ToolFault as fault:
            return f"does not give the same twice: {fault}"
    if again != [one for one in said if one != FAULT]:
        return "does not give the same twice"
    if len(set(said) - {FAULT}) == 1 and not isinstance(own, bool):
        return f"gives the same for all held-out arguments: {said[0]}"
    return Tried(tool, shape, cases, json.dumps(said))


def _is_over(fault: ToolFault) -> bool:
    """One that took its whole time, or its process, would take them again and again."""
    return str(fault).startswith(("no answer", "its process"))


def canonical(value: Any) -> str:
    """Equal where two results are: 6 and 6.0, and what differs by rounding."""
    return json.dumps(_rounded(value), sort_keys=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(f"{value:.9g}")
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return value


def _one_of(members: list[Tried], taken: set[str], knobs: ToolsKnobs) -> Merged:
    """The shortest implementation, by the name that most programs gave it. ToolFault where it does
    not give what the others were used for."""
    best = min(members, key=lambda one: (_size(one.tool.source), one.tool.source))
    tool, counted = best.tool, Counter(one.tool.name for one in members)
    common = min(counted, key=lambda name: (-counted[name], len(name), name))
    name = _free(common, taken)
    source = _renamed(tool.source, tool.name, name)
    examples = _distinct(
        Case(dict(zip(tool.arguments, one.tool.arguments.values(), strict=True)), one.tool.result)
        for one in members
    )
    example = Case(tool.arguments, tool.result)
    return Merged(
        name,
        source,
        tool.description,
        _types(name, source, examples, knobs),
        (tool.question, example, tool.is_answer),
        [*examples[:MOST_EXAMPLES], *best.cases],
        sorted({one.tool.problem_id for one in members}),
        sorted(counted),
    )


def _size(source: str) -> int:
    return sum(1 for _ in ast.walk(ast.parse(source)))


def _free(name: str, taken: set[str]) -> str:
    """Another kind of tool may have the name."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _renamed(source: str, old: str, new: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == old:
            node.id = new
        if isinstance(node, ast.FunctionDef) and node.name == old:
            node.name = new
    return ast.unparse(tree) + "\n"


def _distinct(cases: Iterable[Case]) -> list[Case]:
    return list({json.dumps(case.arguments): case for case in cases}.values())


def _types(name: str, source: str, examples: list[Case], knobs: ToolsKnobs) -> dict[str, str]:
    """A number that was always whole stays so where the tool takes no others. ToolFault where it
    does not give the examples again."""
    found = {}
    first = examples[0].arguments
    with ToolProcess(source, knobs) as process:
        for case in examples:
            if canonical(process.call(name, case.arguments)) != canonical(case.result):
                raise ToolFault("does not give what others of its kind gave")
        for parameter in first:
            given = {type_of(case.arguments[parameter]) for case in examples}
            only = given.pop() if len(given) == 1 else "number"
            if only == "integer":
                row = {**first, parameter: first[parameter] + 0.5}
                try:
                    only = "integer" if process.call(name, row) is None else "number"
                except ToolFault:
                    only = "integer"
            found[parameter] = only
    return found
