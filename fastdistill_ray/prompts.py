"""Problem -> messages -> chat template -> token ids. Teacher and student prompts may differ."""

import datetime
import hashlib
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from pydantic import Field, field_validator

from fastdistill_ray.errors import UserError
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.records import Message
from fastdistill_ray.storage.given import read_text

SYSTEM_PROMPT = (
    "Solve the user's problem. First reason step by step between <think> and </think>. Then give "
    "the result between <answer> and </answer>, with the final value or option letter inside "
    "\\boxed{}."
)
PLAIN = "plain"
# `adds_bos`: whether the tokenizer begins a text with BOS.
_BOS = "{%- if adds_bos %}{{ bos_token }}{% endif %}"
PLAIN_TEMPLATE = (
    _BOS
    + """
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content }}{{ '\\n\\n' }}
{%- elif message.role == 'user' %}User:{{ '\\n' }}{{ message.content }}{{ '\\n\\n' }}
{%- else %}Assistant:{{ '\\n' }}{{ message.content }}{{ eos_token }}{{ '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}Assistant:{{ '\\n' }}{% endif %}"""
)
# Of templates that write the day into a prompt: every stage of a run is to write the same.
DATE = datetime.datetime(2024, 7, 26, tzinfo=datetime.UTC)
OPEN, CLOSE = "<think>", "</think>"
MARK = "42 is the answer"  # a turn that no template changes


class Shot(Knobs):
    question: str = Field(min_length=1, description="A problem, as the user would ask it.")
    answer: str = Field(min_length=1, description="The whole assistant turn, in the format asked.")


class PromptKnobs(Knobs):
    system: str = Field(default=SYSTEM_PROMPT, description="System text; empty: none is sent.")
    shots: list[Shot] = Field(default=[], description="Worked examples put before the question.")
    template: str = Field(
        default="",
        description="Chat template. Empty: the tokenizer's own; plain: lines 'User:' and "
        "'Assistant:', for base models; a .jinja file, whose text stands here once a recipe is "
        "read; else the name of one of several that the tokenizer has.",
    )
    template_args: dict[str, Any] = Field(
        default={}, description="What the chat template is told, such as enable_thinking: false."
    )

    @field_validator("template")
    @classmethod
    def _read_file(cls, template: str) -> str:
        is_file = template.endswith(".jinja") and "\n" not in template
        return read_text(Path(template).expanduser()) if is_file else template


class Prompted(NamedTuple):
    """A model and the prompt it is asked with."""

    model: str
    prompt: PromptKnobs


def build_messages(question: str, knobs: PromptKnobs, options: Sequence[str] = ()) -> list[Message]:
    """System text (unless empty), worked examples, question; options are lines "A. text"."""
    messages: list[Message] = []
    if knobs.system:
        messages.append({"role": "system", "content": knobs.system})
    for shot in knobs.shots:
        messages.append({"role": "user", "content": shot.question})
        messages.append({"role": "assistant", "content": shot.answer})
    messages.append({"role": "user", "content": "\n".join([question, *letter_options(options)])})
    return messages


def letter_options(options: Sequence[str]) -> list[str]:
    if len(options) > len(string.ascii_uppercase):
        raise UserError(f"options: {len(options)} are more than there are letters")
    return [
        f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, options, strict=False)
    ]


def render(messages: Sequence[Message], tokenizer: Any, knobs: PromptKnobs) -> list[int]:
    """Token ids up to where the assistant's turn begins; the chat template writes BOS if any."""
    return _applied(messages, tokenizer, knobs, tokenize=True, return_dict=False)


def written(messages: Sequence[Message], tokenizer: Any, knobs: PromptKnobs) -> str:
    """As `render`, as text."""
    return _applied(messages, tokenizer, knobs, tokenize=False)


def _applied(
    messages: Sequence[Message], tokenizer: Any, knobs: PromptKnobs, **options: Any
) -> Any:
    from jinja2.exceptions import TemplateError  # noqa: PLC0415  comes with transformers

    try:
        return tokenizer.apply_chat_template(
            list(messages),
            **{
                "strftime_now": DATE.strftime,
                **knobs.template_args,
                "chat_template": template_of(tokenizer, knobs),
                "add_generation_prompt": True,
                "adds_bos": adds_bos(tokenizer),
                **options,
            },
        )
    except (TemplateError, TypeError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"model {tokenizer.name_or_path}: its chat template fails for {roles}: "
            f"{' '.join(str(error).split())[:300]}; mend it, set prompt.template, or "
            "prompt.system: '' where it takes no system text"
        ) from error


def template_for_others(tokenizer: Any, knobs: PromptKnobs) -> str:
    """`template_of` for who knows nothing of `adds_bos`."""
    template = template_of(tokenizer, knobs)
    if knobs.template != PLAIN:
        return template
    return template.replace(_BOS, "{{ bos_token }}" if adds_bos(tokenizer) else "")


def template_of(tokenizer: Any, knobs: PromptKnobs) -> str:
    """The text of the template; UserError where there is none."""
    own = tokenizer.chat_template
    named = own if isinstance(own, dict) else {"default": own}
    if knobs.template == PLAIN:
        return PLAIN_TEMPLATE
    if "{" in knobs.template:
        return knobs.template
    found = named.get(knobs.template or "default")
    if not found and knobs.template:
        raise UserError(
            f"model {tokenizer.name_or_path}: its tokenizer has no chat template named "
            f"{knobs.template}; prompt.template: {PLAIN}, a .jinja file, or nothing"
        )
    if not found:
        raise UserError(
            f"model {tokenizer.name_or_path}: its tokenizer has no chat template; set "
            f"prompt.template: {PLAIN} for a base model, or a .jinja file"
        )
    return found


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer begins a text with BOS by itself."""
    return tokenizer.bos_token_id is not None and (
        tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
    )


def end_of_turn(tokenizer: Any, knobs: PromptKnobs) -> int | None:
    """The token that the template writes after what the assistant says; None: it writes none."""
    messages: list[Message] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": MARK},
    ]
    options = {"add_generation_prompt": False, "tokenize": False}
    text = _applied(messages, tokenizer, knobs, **options)
    known = tokenizer.added_tokens_decoder
    for token in tokenizer.encode(text.rpartition(MARK)[2], add_special_tokens=False):
        if token in known:
            return token
        if tokenizer.decode([token]).strip():
            return None
    return None


def opening(tokenizer: Any, knobs: PromptKnobs) -> str:
    """What the template writes of the assistant's own words: "<think>\\n", an empty block of
    thoughts, or nothing. A completion is read as if it began with it."""
    text = written(build_messages(MARK, knobs), tokenizer, knobs).rpartition(MARK)[2]
    return text[text.index(OPEN) :] if OPEN in text else ""


def own_words(text: str, begun: str) -> str:
    """What a model writes after a prompt that holds `begun` of a text already."""
    if begun and OPEN in begun and CLOSE not in begun and not text.startswith(begun):
        inside = text.lstrip().removeprefix(OPEN)
        return inside.lstrip("\n") if inside != text.lstrip() else text
    return text.removeprefix(begun)


def parts_of(text: str) -> tuple[str, str]:
    """The thoughts of a completion and what follows them; a part that is not there is empty."""
    thoughts, closed, rest = text.partition(CLOSE)
    return (thoughts.strip().removeprefix(OPEN).strip(), rest.strip()) if closed else ("", text)


def template_hash(tokenizer: Any, knobs: PromptKnobs) -> str:
    """16 hex digits of all that turns a question into a prompt: chat template, system, shots."""
    said = knobs.model_dump(mode="json", exclude={"template", "template_args"})
    if knobs.template_args:
        said["template_args"] = knobs.template_args
    parts = [template_of(tokenizer, knobs) if tokenizer else None, said]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Written(NamedTuple):
    """What of a model's prompts is the same for all problems."""

    template_hash: str
    opening: str
    end_id: int | None  # `end_of_turn`


_WRITTEN: WeakKeyDictionary[Any, dict[str, Written]] = WeakKeyDictionary()


def written_by(tokenizer: Any, knobs: PromptKnobs) -> Written:
    """Rendered once for a tokenizer and its knobs; without a tokenizer nothing is known."""
    hashed = template_hash(tokenizer, knobs)
    if tokenizer is None:
        return Written(hashed, "", None)
    known = _WRITTEN.setdefault(tokenizer, {})
    if hashed not in known:
        known[hashed] = Written(hashed, opening(tokenizer, knobs), end_of_turn(tokenizer, knobs))
    return known[hashed]


def check_prompt(field: str, model: str, tokenizer: Any, knobs: PromptKnobs) -> None:
    """What the template writes is all that it is given, once; UserError names the field."""
    try:
        _check_prompt(tokenizer, knobs)
    except UserError as error:
        said = str(error).removeprefix(f"model {tokenizer.name_or_path}: ")
        raise UserError(f"{field}: {model}: {said}") from error


def _check_prompt(tokenizer: Any, knobs: PromptKnobs) -> None:
    messages = build_messages(MARK, knobs)
    text = written(messages, tokenizer, knobs)
    remedy = "mend it, or set prompt.template"
    for message in messages:
        role, content = message["role"], message["content"].strip()
        if content in text:
            continue
        if role == "system":
            raise UserError(f"its chat template leaves out the system text; {remedy}")
        if role == "user":
            raise UserError(f"its chat template leaves out the question; {remedy}")
        lost = f", such as {OPEN} blocks" if OPEN in content else ""
        raise UserError(
            f"its chat template leaves out parts of worked examples{lost}; {remedy}, or take "
            "examples without them"
        )
    ids = render(messages, tokenizer, knobs)
    bos = tokenizer.bos_token_id
    if adds_bos(tokenizer) and ids[:1] != [bos]:
        raise UserError(
            f"its chat template leaves out {tokenizer.bos_token}, with which its texts begin; "
            f"{remedy}"
        )
    if bos is not None and ids[:2] == [bos, bos]:
        raise UserError(f"its chat template writes {tokenizer.bos_token} twice; {remedy}")
    if end_of_turn(tokenizer, knobs) is None and tokenizer.eos_token_id is None:
        raise UserError(
            "neither its chat template ends a turn with a token of its own nor has its tokenizer "
            f"an EOS token, so that completions would not end; {remedy}"
        )
