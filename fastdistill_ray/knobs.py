"""The one base of every recipe section: frozen, unknown keys refused."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict


class Knobs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections a field's annotation names, inside unions and lists too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]
