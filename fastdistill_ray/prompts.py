"""Problem -> messages -> chat template -> token ids. Teacher and student prompts may differ."""

import hashlib
import json
import string
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from fastdistill_ray.errors import UserError
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.records import Message

SYSTEM_PROMPT = (
    "Solve the user's problem. First reason step by step between <think> and </think>. Then give "
    "the result between <answer> and </answer>, with the final value or option letter inside "
    "\\boxed{}."
)


class Shot(Knobs):
    question: str = Field(min_length=1, description="A problem, as the user would ask it.")
    answer: str = Field(min_length=1, description="The whole assistant turn, in the format asked.")


class PromptKnobs(Knobs):
    system: str = Field(default=SYSTEM_PROMPT, description="System text; empty: none is sent.")
    shots: list[Shot] = Field(default=[], description="Worked examples put before the question.")


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


def render(messages: Sequence[Message], tokenizer: Any) -> list[int]:
    """Token ids up to where the assistant's turn begins; the chat template writes BOS if any."""
    from jinja2.exceptions import TemplateError  # noqa: PLC0415  comes with transformers

    try:
        return tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"model {tokenizer.name_or_path}: its chat template fails for {roles}: "
            f"{' '.join(str(error).split())[:300]}; mend it, or set prompt.system: '' where it "
            "takes no system text"
        ) from error


def template_hash(tokenizer: Any, knobs: PromptKnobs) -> str:
    """16 hex digits of all that turns a question into a prompt: chat template, system, shots."""
    parts = [tokenizer.chat_template if tokenizer else None, knobs.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
