"""The whole job of a box with a scripted student; killed while it answers, it goes on."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml
from support.groups import commits_of
from support.jobs import kill_with_children, start_job, wait_for
from support.models import make_tiny_model

from fastdistill_ray.agents.answering import (
    BoxEngine,
    BoxSpec,
    call_schema,
    prompt_with,
    prompt_without,
    read_call,
)
from fastdistill_ray.agents.box import Box, BoxTool, write_box
from fastdistill_ray.agents.clustering import Case, Merged
from fastdistill_ray.agents.knobs import AnswersKnobs, LimitKnobs, StudentKnobs
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.storage.place import Place

NUM_TEST = 24


def test_prompts_show_the_same_problems_solved_with_and_without_a_call():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    tool = BoxTool("double", "Twice a.", schema, "", "Twice 21?", Case({"a": 21}, 42.0), True)
    box = Box([tool], LimitKnobs())
    student, knobs = StudentKnobs(model="m"), AnswersKnobs()
    with_box, without = prompt_with(student, box, knobs), prompt_without(student, box, knobs)
    assert with_box.system.splitlines()[-1] == "double(a: integer): Twice a."
    call = '{"tool": "double", "arguments": {"a": 21}}'
    assert [(shot.question, shot.answer) for shot in with_box.shots] == [
        ("Twice 21?", call),
        ("The tool gave 42", "\\boxed{42}"),
    ]
    assert [(shot.question, shot.answer) for shot in without.shots] == [
        ("Twice 21?", "\\boxed{42}")
    ]
    assert without.system == student.prompt.system
    names = [one["properties"]["tool"]["const"] for one in call_schema(box)["anyOf"]]
    assert names == ["double", "none"]
    part = Box([tool._replace(is_answer=False)], LimitKnobs())
    assert prompt_with(student, part, knobs).shots == prompt_without(student, part, knobs).shots
    assert prompt_without(student, part, knobs).shots == [], "another problem's answer would stand"
    bare = knobs.model_copy(update={"examples": False})
    assert prompt_with(student, box, bare).shots == prompt_without(student, box, bare).shots == []


@pytest.mark.parametrize(
    "text", ["", "{", '{"tool": "f"}', '{"tool": "f", "arguments": [1]}', "[1]", '"f"', "null"]
)
def test_text_that_is_no_call_is_told(text):
    assert read_call(text) is None


def test_call_is_read():
    assert read_call('{"tool": "f", "arguments": {"a": 1}}') == ("f", {"a": 1})


@pytest.mark.parametrize(
    ("number", "said", "failed"),
    [
        (8, "The tool gave 11111111", False),
        (9, "The call failed: its result is longer than 8 characters", True),
    ],
)
def test_result_longer_than_its_room_is_a_failed_call_and_never_shown_in_part(
    tmp_path, number, said, failed
):
    source = "def ones(a):\n    return (10 ** a - 1) // 9\n"
    example = ("?", Case({}, 0), False)
    types = {"a": "integer"}
    tool = Merged("ones", source, "a times 1.", types, example, [], ["p"], ["ones"])
    write_box([tool], LimitKnobs(), Place(tmp_path / "box"))
    knobs = AnswersKnobs(max_call_tokens=8, engine={"kind": "scripted"})
    row = {"problem_id": "p", "question": f"{number} times 1?", "messages": [], "seed": 0}

    async def answer() -> tuple[str, list[dict]]:
        engine = BoxEngine(BoxSpec("m", PromptKnobs(), str(tmp_path / "box"), knobs))
        reply, calls = await engine._answer(row)
        await engine.tools.close()
        return reply.completions[0].text, calls

    text, (call,) = asyncio.run(answer())
    expected = said.removeprefix("The tool gave ")
    assert text == f"<answer>\\boxed{{{expected}}}</answer>"
    assert (call["is_error"], call["is_invalid"]) == (failed, False)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    make_tiny_model(str(tmp_path / "model"))
    digits = {"min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3}
    extra = {"seconds_per_request": 0.4, "log": str(tmp_path / "asked.txt")}
    engine = {"kind": "scripted", "max_model_len": 2048, "max_num_seqs": 1, "extra": extra}
    tree = {
        "name": "box",
        "job": "box",
        "tasks": [
            {
                "name": "reasoning_gym:products",
                "num_train": 12,
                "num_test": NUM_TEST,
                "settings": digits,
            }
        ],
        "teacher": {"model": "scripted", "engine": {"kind": "scripted"}},
        "student": {"model": str(tmp_path / "model")},
        "answers": {"max_new_tokens": 32, "max_call_tokens": 32, "engine": engine},
        "pools": {"judges": {"cpus": 0.25}},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


@pytest.mark.ray
@pytest.mark.long
def test_job_that_is_killed_while_the_student_answers_asks_no_answered_problem_again(
    tmp_path, recipe
):
    run = tmp_path / "run"
    job = start_job("box", recipe, run)
    wait_for(lambda: len(committed(run)) >= 4, job)
    kill_with_children(job)
    before, first = committed(run), asked(tmp_path)
    assert 4 <= len(before) < NUM_TEST
    again = start_job("box", recipe, run)
    assert again.wait() == 0, Path(f"{run}.log").read_text()
    second = asked(tmp_path)[len(first) :]
    assert set(before).isdisjoint(second)
    assert set(before) | set(second) == set(committed(run)) and len(committed(run)) == NUM_TEST
    found = json.loads((run / "box.json").read_text())
    assert found["calls"]["made"] == NUM_TEST and found["calls"]["by_tool"] == {
        "multiply": NUM_TEST
    }
    assert found["calls"]["invalid"] == found["calls"]["failed"] == 0
    solved = found["solved"]["all"]
    assert solved["with"]["value"] == 1.0 and solved["without"]["value"] < 1.0
    assert solved["difference"]["low"] > 0 and solved["difference"]["p"] < 0.05
    assert [one["name"] for one in found["tools"]] == ["multiply"]
    assert (run / "box" / "tools" / "multiply.py").is_file() and (run / "box.md").is_file()
    third = start_job("box", recipe, run)
    assert third.wait() == 0
    assert len(asked(tmp_path)) == len(first) + len(second)


def asked(folder: Path) -> list[str]:
    file = folder / "asked.txt"
    return file.read_text().split() if file.exists() else []


def committed(run: Path) -> list[str]:
    folders = list(run.glob("stages/answers/with_box-*"))
    return [key for folder in folders for commit in commits_of(folder) for key in commit["keys"]]
