"""A program that solved a problem -> the functions it called, as tools that stand by themselves.

What of the problem stands in a function becomes its parameters: `add_345_678()` that returns
345 + 678 is `add(a, b)`. Nothing is run here.
"""

import ast
import builtins
import keyword
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

Function = ast.FunctionDef
NUMBER = re.compile(r"\d+(?:\.\d+)?")
SHORTEST_TEXT = 3  # characters of a text, and digits of an answer, that is no coincidence
UNSAFE = frozenset(
    {
        *("open", "exec", "eval", "compile", "input", "globals", "locals", "vars"),
        *("getattr", "setattr", "delattr", "breakpoint"),
    }
)
PARAMETERS = "abcdefghijklmnopqrstuvwxyz"


class Called(NamedTuple):
    """A call that a program made of a function of its own, and what came of it."""

    function: str
    arguments: dict[str, Any]
    result: Any


class Program(NamedTuple):
    """What solved a problem: the source that was run and the calls that were made."""

    problem_id: str
    question: str
    source: str
    calls: list[Called]
    answer: Any


class Tool(NamedTuple):
    """A function that needs nothing else, with the call that it was found by."""

    name: str
    source: str
    description: str
    arguments: dict[str, Any]  # by parameter, in their order
    result: Any
    problem_id: str
    question: str
    is_answer: bool  # whether what it gave was the program's answer


class Refused(NamedTuple):
    name: str
    reason: str  # what a colon parts from it is not counted
    problem_id: str


class Unusable(Exception):
    """Why a function is no tool."""


def extract(program: Program, imports: Iterable[str]) -> list[Tool | Refused]:
    """Every function that the program called by itself, once."""
    tree = ast.parse(program.source)
    first = {}
    for call in program.calls:
        first.setdefault(call.function, call)
    found: list[Tool | Refused] = []
    for call in first.values():
        try:
            found.append(_tool(tree, call, program, frozenset(imports)))
        except Unusable as unusable:
            found.append(Refused(call.function, str(unusable), program.problem_id))
    return found


def _tool(tree: ast.Module, call: Called, program: Program, imports: frozenset[str]) -> Tool:
    needed = _needed(tree, call.function)
    _check_safe(needed, imports)
    # A copy: other tools are made of the same tree.
    *above, function = ast.parse("\n".join(ast.unparse(node) for node in needed)).body
    if not isinstance(function, Function):
        raise Unusable("is defined twice")
    above = _inline_constants(above, function)
    given = function.args
    if given.vararg or given.kwarg:
        raise Unusable("takes any number of arguments")
    given.defaults, given.kw_defaults = [], [None] * len(given.kwonlyargs)
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    if set(names) != set(call.arguments):  # the call was of an earlier one
        raise Unusable("is defined twice")
    parameters = _Parameters(program.question, {*names, *_names(function)})
    doc = ast.get_docstring(function) or ""
    if doc:
        function.body = function.body[1:] or [ast.Pass()]
    parameters.visit(function)
    _check_answer(function, above, call.result, program.question)
    arguments = {name: call.arguments[name] for name in names} | parameters.values
    if not arguments:
        raise Unusable("has no parameters")
    every = [*names, *parameters.values]
    function.args = ast.arguments([], [ast.arg(name) for name in every], None, [], [], None, [])
    function.decorator_list, function.returns = [], None
    name = _general_name(function.name)
    _Renamed(function.name, name).visit(function)
    description = _description(doc, function, parameters.values)
    module = ast.fix_missing_locations(ast.Module([*above, function], []))
    source = ast.unparse(module) + "\n"
    return Tool(
        name,
        source,
        description,
        arguments,
        call.result,
        program.problem_id,
        program.question,
        str(call.result) == str(program.answer) or call.result == program.answer,
    )


def _needed(tree: ast.Module, name: str) -> list[ast.stmt]:
    """The function, after what of the module it needs, in the module's order."""
    defined: dict[str, ast.stmt] = {}
    for node in tree.body:
        for each in _defines(node):
            defined[each] = node
    wanted, seen = [name], set()
    while wanted:
        one = wanted.pop()
        if one in seen:
            continue
        seen.add(one)
        node = defined.get(one)
        if node is None:
            raise Unusable(f"is not self-contained: uses {one}")
        wanted += [free for free in _free_names(node) if not hasattr(builtins, free)]
    function = defined[name]
    others = [node for node in tree.body if any(each in seen for each in _defines(node))]
    return [*(node for node in others if node is not function), function]


def _defines(node: ast.stmt) -> list[str]:
    """What a statement of a module makes, as far as a tool may need it."""
    match node:
        case ast.FunctionDef(name=name):
            return [name]
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return [(one.asname or one.name).partition(".")[0] for one in names]
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant()):
            return [name]
    return []


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _free_names(node: ast.AST) -> set[str]:
    """Names that are read and never made inside."""
    made: set[str] = set()
    for one in ast.walk(node):
        match one:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                made.add(name)
            case ast.FunctionDef(name=name) | ast.ExceptHandler(name=str(name)):
                made.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                made |= {(each.asname or each.name).partition(".")[0] for each in names}
    return _names(node) - made


def _check_safe(nodes: list[ast.stmt], imports: frozenset[str]) -> None:
    for node in nodes:
        for one in ast.walk(node):
            match one:
                case ast.Import(names=names):
                    modules = [each.name for each in names]
                case ast.ImportFrom(module=module):
                    modules = [module or "."]
                case ast.Name(id=name) | ast.Attribute(attr=name) if (
                    name in UNSAFE and isinstance(one, ast.Name)
                ) or name.startswith("__"):
                    raise Unusable(f"uses what a tool may not: {name}")
                case _:
                    continue
            if bad := [one for one in modules if one.partition(".")[0] not in imports]:
                raise Unusable(f"imports what a tool may not: {bad[0]}")


def _inline_constants(above: list[ast.stmt], function: Function) -> list[ast.stmt]:
    """Constants of the module go into the function that reads them; helpers keep them above."""
    constants = {
        name: node.value
        for node in above
        if isinstance(node, ast.Assign)
        for name in _defines(node)
        if isinstance(node.value, ast.Constant)
    }
    _Inlined(constants).visit(function)
    read = set().union(*(_names(node) for node in above if isinstance(node, Function)))
    return [n for n in above if not isinstance(n, ast.Assign) or set(_defines(n)) & read]


class _Inlined(ast.NodeTransformer):
    def __init__(self, constants: dict[str, ast.Constant]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        is_read = isinstance(node.ctx, ast.Load)
        return self.constants.get(node.id, node) if is_read else node


class _Renamed(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.new, node.ctx) if node.id == self.old else node

    def visit_FunctionDef(self, node: Function) -> Function:
        self.generic_visit(node)
        node.name = self.new if node.name == self.old else node.name
        return node


class _Parameters(ast.NodeTransformer):
    """Puts parameters where constants of the question stand; 0 and 1 are no constants of a task.

    A number that stands in the question twice and in the code twice gives two of them.
    """

    def __init__(self, question: str, taken: set[str]) -> None:
        self.question = question
        self.numbers = [float(text) for text in NUMBER.findall(question)]
        self.free = (name for name in PARAMETERS if name not in taken)
        self.values: dict[str, Any] = {}

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        return node  # its parts are layout

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        value = node.value
        if not self._is_of_the_question(value):
            return node
        same = [name for name, known in self.values.items() if known == value]
        most = sum(number == value for number in self.numbers) or 1  # of a text one
        if len(same) < most:
            name = next(self.free, None)
            if name is None:
                raise Unusable("has too many constants")
            self.values[name] = value
        else:
            name = same[0]
        return ast.Name(name, ast.Load())

    def _is_of_the_question(self, value: Any) -> bool:
        if isinstance(value, str):
            word = rf"(?<!\w){re.escape(value)}(?!\w)"
            return len(value) >= SHORTEST_TEXT and bool(re.search(word, self.question))
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return 1 < abs(value) < sys.float_info.max and float(value) in self.numbers


def _check_answer(function: Function, above: list[ast.stmt], result: Any, question: str) -> None:
    """Its own result does not stand in it."""
    if isinstance(result, bool) or not isinstance(result, int | float | str):
        return
    text = str(result).lstrip("-")
    if len(text) < SHORTEST_TEXT or text in NUMBER.findall(question):
        return
    for value in _constants([*above, function]):
        if str(value) == text:
            raise Unusable(f"hard-codes its answer: {text}")


def _constants(nodes: Iterable[ast.AST]) -> Iterator[Any]:
    for node in nodes:
        for one in ast.walk(node):
            if isinstance(one, ast.Constant):
                yield one.value


def _general_name(name: str) -> str:
    """Without the numbers of a problem."""
    general = re.sub(r"_?\d+", "", name).strip("_")
    return general if general and not keyword.iskeyword(general) else "tool"


def _description(doc: str, function: Function, constants: dict[str, Any]) -> str:
    """What it says of itself, in terms of its parameters; else what it returns."""
    line = " ".join((doc.strip().splitlines() or [""])[0].split())
    for name, value in constants.items():
        line = re.sub(rf"(?<!\w){re.escape(str(value))}(?!\w)", name, line, count=1)
    if line:
        return line
    match function.body:
        case [ast.Return(value=ast.expr() as value)]:
            return f"Returns {ast.unparse(value)}."
    return f"{function.name.replace('_', ' ')} of {', '.join(a.arg for a in function.args.args)}"
