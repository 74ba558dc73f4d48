"""Every field of a recipe: its default, meaning, type and range, in words and as a JSON schema."""

import json
import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fastdistill_ray.errors import UserError
from fastdistill_ray.knobs import default_of, models_in
from fastdistill_ray.recipe.tree import EXTENDS, QUICK, AnyRecipe, Recipe

QUICK_MEANS = "Sections that --quick puts over those of the recipe, for a first look."
EXTENDS_MEANS = (
    "Path, from the recipe's folder, of one that it changes, or the name of a shipped one: "
    "sections are merged; lists are replaced, and so is an objective, engine or method by one of "
    "another kind; a server of another url has no key, prices and extra fields of the first."
)
WORDS = {bool: "true or false", int: "integer", float: "number", str: "text"}
RANGES = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


def describe_fields(words: Sequence[str] = (), shape: type[AnyRecipe] = Recipe) -> str:
    """`section.field = default  Description [type]`, one line each; with `words`, of the fields
    whose name holds one of them, and after these of those whose meaning does. UserError where
    that is none."""
    fields = [Field(EXTENDS, "none", EXTENDS_MEANS, "text")]
    fields += [Field(QUICK, "none", QUICK_MEANS, "table"), *fields_of(shape)]
    if words:
        wanted = [word.lower() for word in words]
        named = [one for one in fields if any(word in one.path.lower() for word in wanted)]
        others = [one for one in fields if any(word in one.meaning.lower() for word in wanted)]
        fields = named + [one for one in others if one not in named]
    if not fields:
        raise UserError(f"fields {' '.join(words)}: no field has that in its name or its meaning")
    return "\n".join(map(str, fields))


def schema(shape: type[AnyRecipe] = Recipe) -> str:
    """A JSON schema for editors. It asks for no field, as what a recipe extends may have it."""
    tree = shape.model_json_schema(by_alias=True)
    for name in _mixed(shape):
        tree["$defs"][name].pop("additionalProperties")
    tree["properties"][EXTENDS] = {"type": "string", "description": EXTENDS_MEANS}
    tree["properties"][QUICK] = {"type": "object", "description": QUICK_MEANS}
    return json.dumps(_without_required(tree), indent=1)


def paths_of(name: str, shape: type[AnyRecipe] = Recipe) -> list[str]:
    """The fields of that name, wherever they stand."""
    paths = [field.path for field in fields_of(shape)]
    return list(dict.fromkeys(path for path in paths if path.rpartition(".")[2] == name))


def _mixed(model: type[BaseModel]) -> set[str]:
    """Names of models beside whose fields those of another stand, which their schema forbids."""
    found = set()
    for field in model.model_fields.values():
        if field.exclude:
            found.add(model.__name__)
            continue
        for section in models_in(field.annotation):
            found |= _mixed(section)
    return found


class Field(NamedTuple):
    """One field of a recipe, in words."""

    path: str
    default: str
    meaning: str
    type: str

    def __str__(self) -> str:
        said = f"  {self.meaning}" if self.meaning else " "
        return f"{self.path} = {self.default}{said}{f' [{self.type}]' if self.type else ''}"


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[Field]:
    for name, field in model.model_fields.items():
        if field.exclude:  # a model whose fields stand beside the others
            yield Field(f"{prefix}kind", "required", field.description or "", "")
            continue
        key = prefix + (field.alias or name)
        if sections := models_in(field.annotation):
            inner = f"{key}.NAME." if get_origin(field.annotation) is dict else f"{key}."
            for section in sections:
                yield from fields_of(section, inner)
            continue
        default = default_of(field)
        shown = "required" if default is PydanticUndefined else json.dumps(default, default=str)
        yield Field(key, shown, field.description or "", _type(field))


def _type(field: FieldInfo) -> str:
    ranges = [
        f"{said} {getattr(bound, name):g}"
        for bound in field.metadata
        for kind, (name, said) in RANGES.items()
        if isinstance(bound, kind)
    ]
    return ", ".join([_words(field.annotation), *ranges])


def _words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is type(None) else _words(part) for part in parts)
    if origin is list:
        return f"list of {_words(parts[0])}"
    if origin is tuple:
        return f"[{', '.join(_words(part) for part in parts)}]"
    if origin is dict:
        return "table"
    if parts:  # Annotated
        return _words(parts[0])
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _without_required(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {
            key: _without_required(value)
            for key, value in tree.items()
            if key != "required" or not isinstance(value, list)
        }
    return [_without_required(one) for one in tree] if isinstance(tree, list) else tree
