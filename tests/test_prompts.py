from pathlib import Path
from typing import Any

import pytest
from support.models import CHAT_TEMPLATE, make_tiny_model
from tokenizers.processors import TemplateProcessing

from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import (
    PromptKnobs,
    Shot,
    build_messages,
    check_prompt,
    end_of_turn,
    opening,
    own_words,
    render,
    template_for_others,
    template_hash,
    template_of,
    written,
)

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
    knobs = PromptKnobs(system="Think.")
    ids = render(build_messages("2 + 2?", knobs), tokenizer, knobs)
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


TURNS = CHAT_TEMPLATE.partition("{% if add_generation_prompt %}")[0]
THINKS = TURNS + (
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% else %}{{ '<think>\\n' }}{% endif %}{% endif %}"
)
SHOWN = PromptKnobs(shots=[SHOT])


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """A tokenizer to be changed."""
    return load_tokenizer(make_tiny_model(str(tmp_path / "tiny")))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}"
            "{% endif %}" + CHAT_TEMPLATE,
            "fails for system, user.*: no system role; .*prompt.system: ''",
        ),
        (
            "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}",
            "fails for system, user, assistant, user: roles must alternate",
        ),
        ("{% for m in messages %}{{ m.content }}", "fails for .*: Unexpected end of template"),
        ("{{ messages | nothing }}", "fails for .*: No filter named 'nothing'"),
        (
            "{% for m in messages %}{{ m.content if m.role != 'assistant' else "
            "m.content.split('</think>')[-1] }}{% endfor %}",
            "leaves out parts of worked examples, such as <think> blocks; mend it, or set",
        ),
        (
            "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}"
            "{% endfor %}",
            "leaves out the system text; ",
        ),
        ("{{ messages[0].content }}", "leaves out "),
        ("", "has no chat template; set prompt.template: plain for a base model"),
    ],
)
def test_template_that_cannot_be_used_is_refused_in_a_line_that_names_the_field(
    own: Any, template: str, message: str
) -> None:
    own.chat_template = template or None
    with pytest.raises(ValueError, match=rf"^teacher\.prompt: tiny: its .*{message}") as caught:
        check_prompt("teacher.prompt", "tiny", own, SHOWN)
    assert "\n" not in str(caught.value)


def test_bos_is_there_once_where_texts_of_the_model_begin_with_it(own: Any) -> None:
    own.add_special_tokens({"bos_token": "<s>"})
    check_prompt("student.prompt", "tiny", own, SHOWN)  # no text of this one begins with it
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", own.bos_token_id)]
    )
    for prefix, message in (("", "leaves out <s>"), ("{{ bos_token * 2 }}", "writes <s> twice")):
        own.chat_template = prefix + CHAT_TEMPLATE
        with pytest.raises(ValueError, match=message):
            check_prompt("student.prompt", "tiny", own, SHOWN)
    own.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    check_prompt("student.prompt", "tiny", own, SHOWN)
    plain = PromptKnobs(template="plain", shots=[SHOT])
    check_prompt("student.prompt", "tiny", own, plain)
    assert render(build_messages("2?", plain), own, plain).count(own.bos_token_id) == 1


def test_plain_template_needs_none_of_the_tokenizer_and_ends_turns_with_eos(own: Any) -> None:
    own.chat_template = None
    knobs = PromptKnobs(template="plain", system="Think.", shots=[SHOT])
    check_prompt("student.prompt", "tiny", own, knobs)
    assert written(build_messages("2 + 2?", knobs), own, knobs) == (
        f"Think.\n\nUser:\n1 + 1?\n\nAssistant:\n{SHOT.answer}<|im_end|>\n\n"
        "User:\n2 + 2?\n\nAssistant:\n"
    )
    assert end_of_turn(own, knobs) == own.eos_token_id


def test_template_of_a_file_is_its_text_and_a_name_is_one_of_the_tokenizers(own, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text(TURNS)
    assert PromptKnobs(template=str(file)).template == TURNS
    own.chat_template = {"default": CHAT_TEMPLATE, "terse": TURNS}
    assert template_of(own, PromptKnobs(template="terse")) == TURNS
    assert template_of(own, PromptKnobs()) == CHAT_TEMPLATE
    with pytest.raises(ValueError, match=r"no chat template named rag; .*plain, a \.jinja file"):
        template_of(own, PromptKnobs(template="rag"))
    with pytest.raises(ValueError, match=r"none\.jinja: no such file"):
        PromptKnobs(template=str(tmp_path / "none.jinja"))


def test_opening_is_what_the_template_writes_of_the_assistants_thoughts(own: Any) -> None:
    assert opening(own, PromptKnobs()) == ""
    own.chat_template = THINKS
    assert opening(own, PromptKnobs()) == "<think>\n"
    silent = PromptKnobs(template_args={"enable_thinking": False})
    assert opening(own, silent) == "<think>\n\n</think>\n\n"
    assert template_hash(own, silent) != template_hash(own, PromptKnobs())


@pytest.mark.parametrize(
    ("text", "begun", "expected"),
    [
        ("<think>\na</think>b", "", "<think>\na</think>b"),
        ("<think>\na</think>b", "<think>\n", "a</think>b"),
        ("<think>a</think>b", "<think>\n", "a</think>b"),
        ("\n<think>\n\na</think>b", "<think>\n", "a</think>b"),
        ("b", "<think>\n", "b"),
        ("<think>\n\n</think>\n\nb", "<think>\n\n</think>\n\n", "b"),
        ("b", "<think>\n\n</think>\n\n", "b"),
    ],
)
def test_own_words_are_what_follows_an_opening(text: str, begun: str, expected: str) -> None:
    assert own_words(text, begun) == expected


def test_end_of_turn_is_the_templates_token_and_not_the_tokenizers_eos(own: Any) -> None:
    assert end_of_turn(own, PromptKnobs()) == own.convert_tokens_to_ids("<|im_end|>")
    own.eos_token = "<|endoftext|>"
    assert end_of_turn(own, PromptKnobs()) == own.convert_tokens_to_ids("<|im_end|>")
    own.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    assert end_of_turn(own, PromptKnobs()) is None
    own.eos_token = None
    with pytest.raises(ValueError, match="completions would not end"):
        check_prompt("student.prompt", "tiny", own, SHOWN)


def test_day_that_a_template_writes_is_the_same_on_every_day(own) -> None:
    own.chat_template = "{{ strftime_now('%d %b %Y') }}{{ messages[-1].content }}"
    messages = [{"role": "user", "content": "?"}]
    assert written(messages, own, PromptKnobs()) == "26 Jul 2024?"


def test_opening_is_that_of_the_prompt_with_the_recipes_system_text(own) -> None:
    own.chat_template = (
        "{{ messages[-1].content }}"
        "{% if '/no_think' in messages[0].content %}<think>\n\n</think>\n{% endif %}"
    )
    assert opening(own, PromptKnobs(system="/no_think")) == "<think>\n\n</think>\n"
    assert opening(own, PromptKnobs(system="")) == ""


def test_plain_template_for_others_begins_as_the_tokenizer_does(own) -> None:
    knobs = PromptKnobs(template="plain", system="")
    given = template_for_others(own, knobs)
    assert "adds_bos" not in given
    messages = [{"role": "user", "content": "?"}]
    shown = own.apply_chat_template(
        messages, chat_template=given, tokenize=False, add_generation_prompt=True
    )
    assert shown == written(messages, own, knobs)
