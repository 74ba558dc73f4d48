"""What is read of a server's answer."""

import pytest

from fastdistill_ray.endpoints.answer import read_reply


def text_of(content: str | None, finish: str, **message: str) -> str:
    choice = {"message": {"content": content, **message}, "finish_reason": finish}
    (found,) = read_reply({"choices": [choice]}).choices
    return found.text


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize(
    ("content", "finish", "written"),
    [
        ("4", "stop", "<think>2 + 2</think>\n4"),
        ("4", "length", "<think>2 + 2</think>\n4"),
        (None, "length", "<think>2 + 2"),
        ("", "length", "<think>2 + 2"),
        ("", "stop", "<think>2 + 2</think>\n"),
    ],
)
def test_thought_is_closed_unless_it_was_cut(name, content, finish, written):
    assert text_of(content, finish, **{name: "2 + 2"}) == written


def test_halves_of_a_character_are_joined_and_one_that_is_alone_is_replaced():
    assert text_of("\ud83d\ude00 \ud83d!", "stop") == "\U0001f600 \ufffd!"
