"""What a server's answer holds, sent whole or piece by piece."""

import json
import time
from collections.abc import AsyncIterable
from typing import Any, NamedTuple


class UnusableError(Exception):
    """An answer came and cannot be used."""


class Choice(NamedTuple):
    text: str
    finish_reason: str


class Answer(NamedTuple):
    """The choices in their order; tokens are None where the server does not tell them."""

    choices: list[Choice]
    prompt_tokens: int | None
    completion_tokens: int | None

    @property
    def num_tokens(self) -> int:
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)


def parse(text: str) -> dict[str, Any]:
    """UnusableError where it is no JSON object."""
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"not JSON: {' '.join(text.split())[:80]!r}") from error
    if not isinstance(reply, dict):
        raise UnusableError(f"not a JSON object: {text[:80]!r}")
    return reply


def usage_of(reply: dict[str, Any]) -> tuple[int | None, int | None]:
    """(prompt tokens, completion tokens), None where they are not told."""
    usage = reply.get("usage")
    told = usage if isinstance(usage, dict) else {}
    prompt, completion = (told.get(name) for name in ("prompt_tokens", "completion_tokens"))
    if isinstance(prompt, int) and isinstance(completion, int):
        return prompt, completion
    return None, None


def read_reply(reply: dict[str, Any]) -> Answer:
    """UnusableError where there is no choice, or one that is not whole."""
    try:
        choices = sorted(reply["choices"], key=lambda choice: choice.get("index", 0))
        ends = [choice.get("finish_reason") or "" for choice in choices]
        found = [
            Choice(_text_of(choice["message"], is_cut=end == "length"), end)
            for choice, end in zip(choices, ends, strict=True)
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnusableError(f"no choices in it: {str(reply)[:80]}") from error
    if not found:
        raise UnusableError("an empty list of choices")
    return Answer(found, *usage_of(reply))


def _text_of(message: dict[str, Any], *, is_cut: bool) -> str:
    """Reasoning that a server keeps apart stands between tags in front, as the model wrote it: one
    that was cut is not closed. Halves of a character are joined, or replaced where one is alone."""
    content = message["content"] or ""
    if not isinstance(content, str):
        raise TypeError(content)
    thought = message.get("reasoning_content") or message.get("reasoning")
    closing = "" if is_cut and not content else "</think>\n"
    text = f"<think>{thought}{closing}{content}" if thought else content
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Pieces:
    """The events of a stream, put together to what the server would have sent whole."""

    def __init__(self) -> None:
        self.choices: dict[int, dict[str, Any]] = {}
        self.usage: Any = None
        self.is_whole = False

    def add(self, line: str) -> bool:
        """-> whether the line of the stream brought anything. UnusableError where it is none."""
        name, _, data = line.partition(":")
        if name != "data":
            return False
        if data.strip() == "[DONE]":
            self.is_whole = True
            return True
        event = parse(data)
        if event.get("error"):
            raise UnusableError(f"an error in the stream: {str(event['error'])[:80]}")
        self.usage = event.get("usage") or self.usage
        try:
            for choice in event.get("choices") or []:
                self._grow(choice)
        except (KeyError, TypeError, AttributeError) as error:
            raise UnusableError(f"no choices in an event: {str(event)[:80]}") from error
        return True

    def _grow(self, choice: dict[str, Any]) -> None:
        index = choice.get("index", 0)
        own = self.choices.setdefault(index, {"content": "", "reasoning": "", "finish": ""})
        delta = choice.get("delta") or {}
        own["content"] += delta.get("content") or ""
        own["reasoning"] += delta.get("reasoning_content") or delta.get("reasoning") or ""
        own["finish"] = choice.get("finish_reason") or own["finish"]

    def reply(self) -> dict[str, Any]:
        """UnusableError where the stream ended before its end was told."""
        if not self.is_whole and not all(own["finish"] for own in self.choices.values()):
            raise UnusableError("the stream ended before the completion did")
        choices = [
            {
                "index": index,
                "message": {"content": own["content"], "reasoning": own["reasoning"]},
                "finish_reason": own["finish"],
            }
            for index, own in self.choices.items()
        ]
        return {"choices": choices, "usage": self.usage}


async def read_stream(lines: AsyncIterable[bytes], pieces: Pieces, silence: float) -> None:
    """TimeoutError after `silence` seconds of nothing but comments, such as a proxy sends to keep
    a connection alive."""
    heard = time.monotonic()
    async for line in lines:
        if pieces.add(line.decode("utf-8", errors="replace").strip()):
            heard = time.monotonic()
            if pieces.is_whole:
                return
        elif time.monotonic() - heard > silence:
            raise TimeoutError(f"nothing came for {silence:g} s")
