"""A server that speaks OpenAI's chat completions: where it is, how it is asked, what it costs."""

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from fastdistill_ray.knobs import Knobs


class ServerKnobs(Knobs):
    FREE = frozenset(
        {
            "url",  # a server may move; the name of its model stays
            "api_key_env",
            "max_concurrency",
            "requests_per_minute",
            "tokens_per_minute",
            "stream",
            "timeout",
            "give_up_after",
            "price_prompt",
            "price_completion",
        }
    )

    url: str = Field(description="Address of the server, up to and with /v1.")
    api_key_env: str = Field(
        default="",
        pattern=r"^\w*$",
        description="Environment variable that holds the key, on every node; empty: no key.",
    )
    max_concurrency: int = Field(default=16, ge=1, description="Most requests in flight.")
    requests_per_minute: int = Field(
        default=0, ge=0, description="Most requests a minute; 0: no limit."
    )
    tokens_per_minute: int = Field(
        default=0, ge=0, description="Most prompt and completion tokens a minute; 0: no limit."
    )
    stream: bool = Field(
        default=False,
        description="The server sends tokens as it writes them, so that proxies which cut silent "
        "connections let long completions through; it must tell stream_options.include_usage.",
    )
    timeout: float = Field(
        default=600.0,
        gt=0,
        description="Seconds a request may take; with `stream`, seconds without a token.",
    )
    give_up_after: float = Field(
        default=600.0,
        gt=0,
        description="Seconds one request may go on failing before it is given up.",
    )
    price_prompt: float = Field(default=0.0, ge=0, description="Price of a million prompt tokens.")
    price_completion: float = Field(
        default=0.0, ge=0, description="Price of a million completion tokens."
    )
    length_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="What the server calls the most tokens of a completion."
    )
    extra: dict[str, Any] = Field(
        default={}, description="Any further field of the request's body."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or " " in url:
            raise ValueError("expected http://HOST/v1 or https://HOST/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("keep secrets out of the recipe; name a variable in api_key_env")
        return url.rstrip("/")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.price_prompt + completion_tokens * self.price_completion) / 1e6
