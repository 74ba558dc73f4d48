"""A teacher that needs no model: programs for arithmetic with two numbers, in many styles.

Some of them are wrong, break, hold their answer, hang, or reach for what they are not given: for
tests of what becomes of such programs, and for small runs. It knows +, -, *, gcd and lcm.
"""

import math
import operator
import random
import re
from collections.abc import Callable
from typing import NamedTuple

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Problem

NUMBERS = re.compile(r"\d+")


class Operation(NamedTuple):
    name: str
    question: str  # pattern of a question that asks for it
    doc: str
    solve: Callable[[int, int], int]
    expression: str
    loop: str  # another way, of several lines; `total` is the result


GCD_LOOP = "total, rest = {a}, {b}\nwhile rest:\n    total, rest = rest, total % rest"
OPERATIONS = (
    Operation(
        "gcd",
        r"Greatest Common Divisor|\bGCD\b",
        "the greatest common divisor of {a} and {b}",
        math.gcd,
        "math.gcd({a}, {b})",
        GCD_LOOP,
    ),
    Operation(
        "lcm",
        r"Least Common Multiple|\bLCM\b",
        "the least common multiple of {a} and {b}",
        math.lcm,
        "math.lcm({a}, {b})",
        GCD_LOOP + "\ntotal = {a} * {b} // total",
    ),
    Operation(
        "multiply",
        r"\d \* \d",
        "the product of {a} and {b}",
        operator.mul,
        "{a} * {b}",
        "total, rest, part = 0, {b}, {a}\nwhile rest:\n    total += part * (rest % 10)\n"
        "    part, rest = part * 10, rest // 10",
    ),
    Operation(
        "add",
        r"\d \+ \d",
        "the sum of {a} and {b}",
        operator.add,
        "{a} + {b}",
        "total = sum([{a}, {b}])",
    ),
    Operation(
        "subtract",
        r"\d - \d",
        "the difference of {a} and {b}",
        operator.sub,
        "{a} - {b}",
        "total = {a}\ntotal -= {b}",
    ),
)
STYLES = {  # how often each is written
    "general": 4,
    "constants": 4,
    "loop": 3,
    "answer": 2,
    "table": 1,
    "wrong": 1,
    "broken": 1,
    "endless": 1,
    "endless_elsewhere": 1,
    "environment": 1,
    "network": 1,
}


def program(problem: Problem, seed: int, k: int) -> str:
    """The k-th completion for a problem: some words and a block of Python."""
    operation, a, b = _read(problem)
    rng = random.Random(f"{seed}/{problem.problem_id}/{k}")
    style = rng.choices(list(STYLES), list(STYLES.values()))[0]
    return f"I write a program.\n```python\n{written(style, operation, a, b)}```\n"


def written(style: str, operation: Operation, a: str, b: str) -> str:
    name, answer = operation.name, str(operation.solve(int(a), int(b)))
    named = {"a": "a", "b": "b"}
    value = operation.expression.format(**named)
    doc = f'"""Return {operation.doc.format(**named)}."""'
    lines, call = [f"return {value}"], f"{name}({a}, {b})"
    head = f"def {name}(a, b):"
    match style:
        case "constants":
            given = {"a": a, "b": b}
            head, call = f"def {name}_{a}_{b}():", f"{name}_{a}_{b}()"
            doc = f'"""Return {operation.doc.format(**given)}."""'
            lines = [f"return {operation.expression.format(**given)}"]
        case "loop":
            head = f"def {name}_numbers(x, y):"
            doc = f'"""Return {operation.doc.format(a="x", b="y")}."""'
            call = f"{name}_numbers({a}, {b})"
            lines = [*operation.loop.format(a="x", b="y").splitlines(), "return total"]
        case "answer":
            head, call, lines = "def solve():", "solve()", [f"return {answer}"]
        case "table":
            lines = [f"known = {{({a}, {b}): {answer}}}", "return known.get((a, b), 0)"]
        case "wrong":
            call = f"{call} + 1"
        case "broken":
            lines = ["return a +"]
        case "endless":
            lines = ["while True:", "    pass"]
        case "endless_elsewhere":
            lines = [f"while (a, b) != ({a}, {b}):", "    pass", *lines]
        case "environment":
            lines = ["import os", "os.environ.get('TOKEN')", *lines]
        case "network":
            lines = [
                "import socket",
                "try:",
                "    socket.create_connection(('192.0.2.1', 80), 1)",
                "except OSError:",
                "    pass",
                *lines,
            ]
    body = "\n".join(f"    {line}" for line in [doc, *lines])
    needs = "import math\n" if "math." in body else ""
    return f"{needs}{head}\n{body}\nanswer = {call}\n"


def _read(problem: Problem) -> tuple[Operation, str, str]:
    numbers = NUMBERS.findall(problem.question)
    for operation in OPERATIONS:
        if len(numbers) == 2 and re.search(operation.question, problem.question):
            return operation, numbers[0], numbers[1]
    raise UserError(
        f"teacher.engine.kind: scripted writes for two numbers and +, -, *, gcd or lcm; "
        f"{problem.problem_id} asks: {problem.question[:80]}"
    )
