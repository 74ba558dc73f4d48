"""Tools of many programs -> a box: one implementation of each kind, tested; and programs from texts
to tools."""

import json
from pathlib import Path

import pytest

from fastdistill_ray.agents.box import load_box, make_box, schema_of
from fastdistill_ray.agents.clustering import canonical, merge, type_of
from fastdistill_ray.agents.extraction import Called, Program, Tool, extract
from fastdistill_ray.agents.knobs import LimitKnobs, ToolsKnobs
from fastdistill_ray.agents.sandbox import ToolProcess
from fastdistill_ray.agents.scripted import OPERATIONS, STYLES, written
from fastdistill_ray.agents.traces import Text, source_in, trace, write_traces
from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Problem
from fastdistill_ray.run_files import BOX
from fastdistill_ray.storage.place import Place
from fastdistill_ray.verifiers import Judge, VerifierKnobs

KNOBS = ToolsKnobs(time_limit=1.0)


def tools_of(*programs: tuple[str, str, str, dict, object]) -> list[Tool]:
    found = [
        tool
        for place, (source, question, *call) in enumerate(programs)
        for tool in extract(
            Program(f"p{place}", question, source, [Called(*call)], call[-1]), KNOBS.imports
        )
    ]
    assert all(isinstance(tool, Tool) for tool in found)
    return found  # pyright: ignore[reportReturnType]


def test_add_3_5_and_add_of_a_and_b_are_one_tool_of_two_numbers():
    tools = tools_of(
        ("def add_3_5(): return 3 + 5", "What is 3 + 5?", "add_3_5", {}, 8),
        ("def add(a, b): return a + b", "What is 4 + 9?", "add", {"a": 4, "b": 9}, 13),
        (
            "def plus(x, y):\n    s = x\n    s += y\n    return s",
            "2 + 2?",
            "plus",
            {"x": 2, "y": 2},
            4,
        ),
    )
    (one,), refused = merge(tools, KNOBS)
    assert refused == []
    assert (one.name, one.types) == ("add", {"a": "number", "b": "number"})
    assert one.names == ["add", "plus"] and one.problem_ids == ["p0", "p1", "p2"]
    with ToolProcess(one.source, KNOBS) as process:
        assert process.call("add", {"a": 3, "b": 5}) == 8
        assert all(process.call("add", case.arguments) == case.result for case in one.tests)
    assert {"a": 4, "b": 9} in [case.arguments for case in one.tests]
    assert schema_of(one.types)["properties"] == {"a": {"type": "number"}, "b": {"type": "number"}}


def test_tools_that_differ_only_elsewhere_are_two_and_share_no_name():
    tools = tools_of(
        ("def f(a, b): return a * b", "2 * 2?", "f", {"a": 2, "b": 2}, 4),
        ("def f(a, b): return a * b", "3 * 7?", "f", {"a": 3, "b": 7}, 21),
        ("def f(a, b): return a ** b", "2 to the 2?", "f", {"a": 2, "b": 2}, 4),
        ("def f(a): return a[::-1]", "turn abc", "f", {"a": "abc"}, "cba"),
    )
    found, refused = merge(tools, KNOBS)
    assert refused == []
    assert {one.name: one.types for one in found} == {
        "f": {"a": "number", "b": "number"},
        "f_2": {"a": "number", "b": "number"},
        "f_3": {"a": "string"},
    }
    assert "a * b" in next(one.source for one in found if one.name == "f")
    found, refused = merge(tools, KNOBS.model_copy(update={"min_traces": 2}))
    assert [one.source for one in found] == ["def f(a, b):\n    return a * b\n"]
    assert {one.reason for one in refused} == {"comes from fewer than 2 problems"}


def test_whole_number_stays_one_where_the_tool_takes_no_others():
    source = "import math\ndef f(a, b): return math.gcd(a, 12) * b"
    (one,), _ = merge(tools_of((source, "?", "f", {"a": 18, "b": 2}, 12)), KNOBS)
    assert one.types == {"a": "integer", "b": "number"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return 42 if a == 7 else 0", "gives the same for all held-out arguments: 0"),
        ("while a != 7: pass\n    return 42", "fails on held-out arguments: no answer in 1 s"),
        ("return {7: 42}[a]", "fails on held-out arguments: KeyError"),
        ("return 43", "does not give its own result again"),
        ("raise ValueError('no')", "fails by itself: ValueError: no"),
        ("last.append(a)\n    return 42 + a - 7 + (len(last) > 9)", "does not give the same twice"),
    ],
)
def test_tool_that_holds_for_its_own_problem_only_is_refused(body, reason):
    source = f"last = []\ndef f(a):\n    {body}\n"
    tool = Tool("f", source, "", {"a": 7}, 42, "p", "?", True)
    found, (refused,) = merge([tool], KNOBS)
    assert found == [] and refused.reason.startswith(reason)


@pytest.mark.parametrize(
    "value", [10**15 + 1, -(10**309), [1, 10**309]], ids=["large", "endless", "in a list"]
)
def test_tool_of_a_number_too_large_for_floats_is_refused(value):
    source = "def f(a): return str(a)[::-1]"
    one = Tool("f", source, "", {"a": value}, str(value)[::-1], "p", "?", True)
    found, (refused,) = merge([one], KNOBS)
    assert found == [] and refused.reason.startswith("takes what no tool takes: ")
    assert type_of(10**15) == type_of(-(10**15)) == "integer"


def problem(question: str = "Solve: 345 * 678.", reference: str = "233910") -> Problem:
    return Problem("p", "t", "train", question, reference, "number")


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "[" * 100_000,
        "[]",
        "{}",
        '{"value": 1}',
        '{"value": {"answer": 1, "calls": [1]}}',
        '{"value": {"answer": 1, "calls": [{"function": "f", "arguments": {}}]}}',
    ],
)
def test_program_that_writes_what_is_no_trace_has_failed_and_no_other(line):
    write = f"for place in range(3, 20):\n    try: os.write(place, {line!r}.encode() + b'\\n')"
    text = f"```python\nimport os\nanswer = 233910\n{write}\n    except OSError: pass\n```"
    with Judge(VerifierKnobs()) as judge:
        row = trace(Text(problem(), 0, text), KNOBS, judge)
    assert row["verdict"] == "failed", row


@pytest.mark.parametrize("style", STYLES)
def test_program_of_every_style_comes_to_what_it_says(style):
    kept = {"general", "constants", "loop", "environment", "network", "answer", "table"}
    expected = "correct" if style in {*kept, "endless_elsewhere"} else "failed"
    expected = "wrong" if style == "wrong" else expected
    operations = {one.name: one for one in OPERATIONS}
    text = f"```python\n{written(style, operations['multiply'], '345', '678')}```"
    with Judge(VerifierKnobs()) as judge:
        row = trace(Text(problem(), 0, text), KNOBS, judge)
    assert row["verdict"] == expected, row
    if expected != "correct":
        return
    calls = [Called(**call) for call in json.loads(row["calls"])]
    assert [call.result for call in calls] == [233910]
    program = Program("p", problem().question, row["source"], calls, json.loads(row["answer"]))
    found = extract(program, KNOBS.imports)
    tools = [one for one in found if isinstance(one, Tool)]
    merged, _ = merge(tools, KNOBS)
    assert bool(merged) == (style in {"general", "constants", "loop"})


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("```python\na = 1\n```", "a = 1\n"),
        ("```Python3 title=x\r\na = 1\r\n```", "a = 1\r\n"),
        ("```\na = 1\n```", "a = 1\n"),
        ("Run\n```bash\npip install x\n```\nthen\n```py\na = 1\n```\n", "a = 1\n"),
        ("```python\na = 1\n```\nIt prints\n```\n1 apple\n```\nin all.", "a = 1\n"),
        ("```python\na = 1\n```\nand\n```python\nb = 2\n```", "a = 1\n\nb = 2\n"),
        ('```python\na = "```"\n```', 'a = "```"\n'),
        ("```bash\nls\n```", ""),
        ("```python\na = 1", ""),
    ],
)
def test_program_is_the_python_of_a_text_whatever_blocks_stand_beside_it(text, source):
    assert source_in(text) == source


def test_text_without_a_program_fails():
    with Judge(VerifierKnobs()) as judge:
        row = trace(Text(problem(), 0, "It is 233910."), KNOBS, judge)
    assert (row["verdict"], row["reason"]) == ("failed", "no block of Python")


@pytest.fixture
def box(tmp_path: Path) -> Path:
    operations = {one.name: one for one in OPERATIONS}
    texts = [
        Text(problem(f"{a} {sign} {b}?", str(result)), k, f"```python\n{source}```")
        for k, (name, sign, a, b, result) in enumerate(
            [("multiply", "*", 345, 678, 233910), ("gcd", "gcd", 84, 36, 12)]
        )
        for source in [written("general", operations[name], str(a), str(b))]
    ]
    out = Place(tmp_path / "stage")
    written_result = write_traces(texts, KNOBS, VerifierKnobs(), out=out)
    assert (written_result.rows_in, written_result.rows_out) == (2, 2)
    result = make_box(out, KNOBS, out=out)
    assert (result.rows_in, result.rows_out) == (2, 2)
    return tmp_path / "stage" / BOX


def failing_tests(folder: Path) -> list[str]:
    """Tests of a box that its tools fail, a line each; ToolFault where one gives nothing."""
    box, found = load_box(folder), []
    for tool in box.tools:
        text = (folder / "tests" / f"{tool.name}.json").read_text(encoding="utf-8")
        with ToolProcess(tool.source, box.limits) as process:
            for case in json.loads(text):
                got = process.call(tool.name, case["arguments"])
                if canonical(got) != canonical(case["result"]):
                    found.append(f"{tool.name}({case['arguments']}) = {got}")
    return found


def test_box_in_its_folder_passes_its_tests_and_reads_back(box):
    assert failing_tests(box) == []
    found = {tool.name: tool for tool in load_box(box).tools}
    assert set(found) == {"gcd", "multiply"}
    assert found["gcd"].schema["properties"]["a"] == {"type": "integer"}
    assert found["multiply"].example.result == 233910
    assert load_box(box).limits == LimitKnobs(time_limit=1.0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda box: (box / "manifest.json").unlink(), "it holds no manifest.json"),
        (lambda box: (box / "manifest.json").write_text("{}"), "manifest.json is no manifest of"),
        (lambda box: (box / "tools/gcd.py").unlink(), "tools/gcd.py is missing"),
        (
            lambda box: (box / "tools/gcd.py").write_text("def gcd(a, b): return 1"),
            "tools/gcd.py is not the file that was tested",
        ),
    ],
)
def test_box_that_is_not_as_it_was_made_is_refused_in_a_line(box, spoil, message):
    spoil(box)
    with pytest.raises(UserError, match=f"^box {box}: {message}"):
        load_box(box)


def test_programs_without_tools_are_told(tmp_path):
    out = Place(tmp_path)
    write_traces([Text(problem(), 0, "no program")], KNOBS, VerifierKnobs(), out=out)
    with pytest.raises(UserError, match="teacher: no program that solved a problem calls"):
        make_box(out, KNOBS, out=out)
