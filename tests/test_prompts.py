from pathlib import Path
from typing import Any

import pytest
from support.models import make_tiny_model

from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import PromptKnobs, Shot, build_messages, render, template_hash

SHOT = Shot(question="1 + 1?", answer="<think>1 + 1 = 2</think>\n<answer>\\boxed{2}</answer>")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(make_tiny_model(str(tmp_path_factory.mktemp("tiny"))))


def test_build_messages_with_shots_alternates_and_ends_with_the_question() -> None:
    messages = build_messages("2 + 2?", PromptKnobs(system="Think.", shots=[SHOT]))
    assert messages == [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": SHOT.answer},
        {"role": "user", "content": "2 + 2?"},
    ]


def test_build_messages_with_empty_system_sends_none() -> None:
    messages = build_messages("2 + 2?", PromptKnobs(system=""))
    assert messages == [{"role": "user", "content": "2 + 2?"}]


def test_build_messages_with_options_letters_them() -> None:
    (message,) = build_messages("Which?", PromptKnobs(system=""), ["red", "blue", "A. b"])
    assert message["content"] == "Which?\nA. red\nB. blue\nC. A. b"


def test_build_messages_with_more_options_than_letters_is_refused() -> None:
    with pytest.raises(ValueError, match="27 are more than there are letters"):
        build_messages("Which?", PromptKnobs(), ["x"] * 27)


def test_render_decodes_to_the_chat_template_filled_in(tokenizer: Any) -> None:
    ids = render(build_messages("2 + 2?", PromptKnobs(system="Think.")), tokenizer)
    assert all(isinstance(token_id, int) for token_id in ids)
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nThink.<|im_end|>\n"
        "<|im_start|>user\n2 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_template_hash_changes_with_every_part(tokenizer: Any, tmp_path: Path) -> None:
    knobs = PromptKnobs(system="Think.", shots=[SHOT])
    other = load_tokenizer(make_tiny_model(str(tmp_path)))
    assert template_hash(other, knobs) == template_hash(tokenizer, knobs)
    other.chat_template += "\n"
    hashes = {
        template_hash(tokenizer, knobs),
        template_hash(tokenizer, PromptKnobs(system="Think!", shots=[SHOT])),
        template_hash(tokenizer, PromptKnobs(system="Think.")),
        template_hash(other, knobs),
    }
    assert len(hashes) == 4
    assert {len(value) for value in hashes} == {16}
