"""Functions of programs that solved a problem -> tools with parameters, or why they are none."""

import pytest

from fastdistill_ray.agents.extraction import Called, Program, Refused, Tool, extract

IMPORTS = ["math", "functools"]


def one_of(source: str, question: str, *calls: tuple) -> Tool | Refused:
    program = Program("p", question, source, [Called(*call) for call in calls], None)
    (found,) = extract(program, IMPORTS)
    return found


def test_constants_of_the_question_become_parameters_and_leave_name_and_text():
    source = 'def add_345_678():\n    """Return 345 plus 678."""\n    return 345 + 678\n'
    tool = one_of(source, "What is 345 + 678?", ("add_345_678", {}, 1023))
    assert isinstance(tool, Tool)
    assert (tool.name, tool.description) == ("add", "Return a plus b.")
    assert tool.source == "def add(a, b):\n    return a + b\n"
    assert tool.arguments == {"a": 345, "b": 678} and tool.result == 1023


def test_number_that_stands_twice_in_the_question_and_the_code_gives_two_parameters():
    asked = ("f", {}, 1190250)
    tool = one_of("def f(): return (345 + 345) * 1725", "(345 + 345) * 1725?", asked)
    assert isinstance(tool, Tool) and tool.source == "def f(a, b, c):\n    return (a + b) * c\n"
    tool = one_of("def f(): return (345 + 345) * 1725", "345 twice, times 1725?", asked)
    assert isinstance(tool, Tool) and tool.source == "def f(a, b):\n    return (a + a) * b\n"


def test_parameters_that_are_there_stay_first_and_their_defaults_go():
    source = (
        "import math, os\nSIDE = 12\nUNUSED = 5\n"
        "def root(x):\n    return math.sqrt(x)\n"
        "def length(power=2):\n    return root(SIDE ** power + 35 ** power)\n"
    )
    question = "The sides are 12 and 35. How long is the third?"
    tool = one_of(source.replace(", os", ""), question, ("length", {"power": 2}, 37.0))
    assert isinstance(tool, Tool)
    assert tool.source == (
        "import math\n\ndef root(x):\n    return math.sqrt(x)\n\n"
        "def length(power, a, b):\n    return root(a ** power + b ** power)\n"
    )
    assert tool.arguments == {"power": 2, "a": 12, "b": 35}


def test_text_of_the_question_becomes_a_parameter():
    source = "def count(letter):\n    return 'strawberry'.count(letter)\n"
    question = "How often is r in strawberry?"
    tool = one_of(source, question, ("count", {"letter": "r"}, 3))
    assert isinstance(tool, Tool) and tool.arguments == {"letter": "r", "a": "strawberry"}


def test_constant_beyond_every_float_stays_where_it_is():
    large = 10**309
    tool = one_of(f"def f(a): return a % {large}", "7 modulo?", ("f", {"a": 7}, 7))
    assert isinstance(tool, Tool) and tool.source == f"def f(a):\n    return a % {large}\n"


@pytest.mark.parametrize(
    ("source", "arguments", "reason"),
    [
        ("def f(): return 233910", {}, "hard-codes its answer: 233910"),
        ("def f(a): return {7: 233910}.get(a)", {"a": 7}, "hard-codes its answer: 233910"),
        ("X = 233910\ndef f(a): return X", {"a": 7}, "hard-codes its answer: 233910"),
        ("def f(): return sum(range(9))", {}, "has no parameters"),
        ("import os\ndef f(a): return os.getpid()", {"a": 7}, "imports what a tool may not: os"),
        (
            "def f(a):\n    import socket\n    return a",
            {"a": 7},
            "imports what a tool may not: soc",
        ),
        ("def f(a): return open(a)", {"a": 7}, "uses what a tool may not: open"),
        ("def f(a): return a.__class__", {"a": 7}, "uses what a tool may not: __class__"),
        ("def f(a): return g(a)", {"a": 7}, "is not self-contained: uses g"),
        ("x = [1]\ndef f(a): return x[0] * a", {"a": 7}, "is not self-contained: uses x"),
        ("def f(*a): return sum(a)", {"a": [7, 8]}, "takes any number of arguments"),
        ("def f(a): return a\ndef f(a, b): return a * b", {"a": 7}, "is defined twice"),
        ("def f(a): return a\nf = 3", {"a": 7}, "is defined twice"),
    ],
)
def test_function_that_is_no_tool_is_refused_with_the_reason(source, arguments, reason):
    found = one_of(source, "What is 345 * 678?", ("f", arguments, 233910))
    assert isinstance(found, Refused) and found.reason.startswith(reason)


def test_each_function_that_was_called_is_looked_at_once():
    source = "def f(a): return a + 1\ndef g(a): return a * 2\ndef h(a): return a\n"
    calls = [Called("f", {"a": 3}, 4), Called("g", {"a": 3}, 6), Called("f", {"a": 9}, 10)]
    found = extract(Program("p", "?", source, calls, 6), IMPORTS)
    assert [one.name for one in found] == ["f", "g"]
    assert [one.is_answer for one in found if isinstance(one, Tool)] == [False, True]
