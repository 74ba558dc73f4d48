"""The one base of every recipe section: frozen, unknown keys refused."""

from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo


class Knobs(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False
    )

    # Fields that change how a result is had, not which: sizes of batches in flight, prices, and
    # references to models and files, in whose place the identity of what they name is compared.
    FREE: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _refuse_yes_for_a_number(cls, values: Any) -> Any:
        """pydantic takes true for 1."""
        numbers = (int, float, int | None, float | None)
        for name, field in cls.model_fields.items():
            key = field.alias or name
            given = values.get(key) if isinstance(values, dict) else None
            if isinstance(given, bool) and field.annotation in numbers:
                raise ValueError(f"{key}: expected a number, not true or false")
        return values


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections a field's annotation names, inside unions and lists too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def identity(value: Any) -> Any:
    """Everything under a knob that decides a result, as plain data by the names of a recipe."""
    return _plain(value, with_defaults=True)


def chosen(value: Any) -> Any:
    """As `identity`, without the fields that have their default."""
    return _plain(value, with_defaults=False)


def _plain(value: Any, with_defaults: bool) -> Any:
    if isinstance(value, Knobs):
        return {
            field.alias or name: _plain(getattr(value, name), with_defaults)
            for name, field in type(value).model_fields.items()
            if name not in value.FREE
            and (with_defaults or getattr(value, name) != default_of(field))
        }
    if isinstance(value, dict):  # as pairs: a name that is missing in one is no knob at its default
        return [[str(key), _plain(value[key], with_defaults)] for key in sorted(value)]
    if isinstance(value, list | tuple):
        return [_plain(one, with_defaults) for one in value]
    return value


def default_of(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)
