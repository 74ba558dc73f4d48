"""YAML and `--section.field=value` overrides -> a checked recipe, and back. No torch, no Ray."""

import difflib
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fastdistill_ray.condensing.knobs import METHODS
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import ENDPOINT_TAG, ENGINE_TAG
from fastdistill_ray.knobs import models_in
from fastdistill_ray.objectives import OBJECTIVES
from fastdistill_ray.recipe.checks import combination_errors
from fastdistill_ray.recipe.fields import paths_of
from fastdistill_ray.recipe.shapes import SHAPES, check_job, job_of
from fastdistill_ray.recipe.shipped import is_word, recipe_place, shipped_recipes
from fastdistill_ray.recipe.strict_yaml import read_yaml
from fastdistill_ray.recipe.tree import EXTENDS, QUICK, AnyRecipe, Recipe
from fastdistill_ray.storage.place import Place

R = TypeVar("R", bound=AnyRecipe)
MOST_SUGGESTED = 3
# Sections whose fields are those of their kind, and the kind where none is said.
OF_A_KIND = {"objective": None, "engine": "vllm", "method": None}
# What another address does not get of a server's: its key, its prices, what its bodies have.
FILE, TEXT = "path", "source"  # of a reward function
OF_A_SERVER = {"api_key_env", "extra", "price_prompt", "price_completion"}


def load_recipe(path: str | Place, overrides: list[str]) -> Recipe:
    """A distillation's, as `load_shape`."""
    return load_shape(path, overrides, Recipe)


def load_shape(path: str | Place, overrides: list[str], shape: type[R]) -> R:
    """YAML file, or the name of a shipped one, plus `section.field=value` overrides -> a recipe of
    this shape; UserError is one clear line."""
    return parse_shape(_tree(path, overrides), str(path), shape)


def load_any(path: str | Place, overrides: list[str]) -> AnyRecipe:
    """As `load_shape`, of the shape that belongs to the job which the recipe names."""
    return parse_any(_tree(path, overrides), str(path))


def load_changed(path: str | Place, changes: Mapping[str, Any]) -> AnyRecipe:
    """As `load_any`, with values by the names of their fields, {"section.field": value}."""
    tree = _tree(path, [])
    for field, value in changes.items():
        _set(tree, field, value, f"change {field!r}")
    return parse_any(tree, str(path))


def _tree(path: str | Place, overrides: list[str]) -> dict[str, Any]:
    tree = _read(recipe_place(path), str(path), ())
    quick, flag = tree.pop(QUICK, None), f"--{QUICK}"
    if flag in overrides:
        if not isinstance(quick, dict):
            there = "expected sections in it" if quick else "it has no such section"
            raise UserError(f"recipe {path}: {QUICK}: {there}, which {flag} puts over the others")
        tree = _over(quick, tree)
    for override in overrides:
        if override != flag:
            _apply_override(tree, override)
    return tree


def _read(file: Place, name: str, read: tuple[Place, ...]) -> dict[str, Any]:
    """The sections of a file, put over those of the recipe it extends; `read`: who extend it."""
    if file.is_dir():
        raise UserError(f"recipe {name}: a folder; name the YAML file in it")
    if not file.is_file():
        shipped = f"; shipped ones: {', '.join(shipped_recipes())}" if is_word(name) else ""
        raise UserError(f"recipe {name}: no such file{shipped}")
    try:
        tree = read_yaml(file.read_text())
    except UnicodeDecodeError as error:
        raise UserError(f"recipe {name}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise UserError(f"recipe {name}: cannot be read: {error.strerror}") from error
    except UserError as error:
        raise UserError(f"recipe {name}: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"recipe {name}: expected sections such as 'task:' and 'teacher:'")
    for key in tree:
        if not isinstance(key, str):
            raise UserError(f"recipe {name}: {key}: unknown key; sections have names")
    if EXTENDS not in tree:
        return tree
    base = tree.pop(EXTENDS)
    if not isinstance(base, str) or not base:
        raise UserError(
            f"recipe {name}: {EXTENDS}: expected the path of a recipe, from its folder, or the "
            "name of a shipped one"
        )
    other = Place(base) if os.path.isabs(base) or "://" in base else file.parent / base
    if not other.is_file() and base in shipped_recipes():
        other = recipe_place(base)
    if other.is_local:
        other = Place(os.path.normpath(other.local))
    if other in (*read, file):
        raise UserError(f"recipe {name}: {EXTENDS}: {base} extends this one itself")
    return _over(tree, _read(other, f"{name}: {EXTENDS}: {base}", (*read, file)))


def _over(tree: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Sections within sections are merged; all else is replaced, and so is a section that another
    kind has other fields of. A server at another address is not given the key of the first."""
    merged = dict(base)
    for name, value in tree.items():
        below = base.get(name)
        if isinstance(value, dict) and isinstance(below, dict):
            kind = below.get("kind", OF_A_KIND.get(name))
            is_other = name in OF_A_KIND and value.get("kind", kind) != kind
            if "url" in below and value.get("url", below["url"]) != below["url"]:
                below = {key: one for key, one in below.items() if key not in OF_A_SERVER}
            if value.get(FILE, below.get(FILE)) != below.get(FILE):
                below = {key: one for key, one in below.items() if key != TEXT}
            value = value if is_other else _over(value, below)
        merged[name] = value
    return merged


def parse_recipe(tree: dict[str, Any], origin: str) -> Recipe:
    return parse_shape(tree, origin, Recipe)


def parse_any(tree: dict[str, Any], origin: str) -> AnyRecipe:
    return parse_shape(tree, origin, SHAPES.get(job_of(tree), Recipe))


def parse_shape(tree: dict[str, Any], origin: str, shape: type[R]) -> R:
    """A plain tree -> a recipe; unknown keys are told before missing ones."""
    check_job(tree, origin, shape)
    try:
        recipe = shape.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"recipe {origin}: {_first_error(error, shape)}") from error
    for problem in combination_errors(recipe) if isinstance(recipe, Recipe) else []:
        raise UserError(f"recipe {origin}: {problem}")
    return recipe


def dump_recipe(recipe: AnyRecipe) -> str:
    """The resolved recipe as YAML; loaded, it gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.removeprefix("--").partition("=")
    if not separator or not override.startswith("--") or not all(key.split(".")):
        raise UserError(f"override {override!r}: expected --section.field=value")
    try:
        value = read_yaml(text)
    except UserError as error:
        raise UserError(f"override {override!r}: {text!r}: {error}") from error
    _set(tree, key, value, f"override {override!r}")


def _set(tree: dict[str, Any], key: str, value: Any, said: str) -> None:
    *sections, name = key.split(".")
    node = tree
    for section in sections:
        if node.get(section) is None:  # absent, or null in a written recipe
            node[section] = {}
        node = node[section]
        if not isinstance(node, dict):
            raise UserError(f"{said}: {section} is not a section")
    if name == FILE and value != node.get(name):
        node.pop(TEXT, None)  # of the file that was
    node[name] = value


def _first_error(error: ValidationError, shape: type[AnyRecipe]) -> str:
    order = {"extra_forbidden": 0, "missing": 2}
    first = min(error.errors(), key=lambda item: order.get(item["type"], 1))
    # Tags of discriminated unions are not part of the key the user wrote.
    tags = (*OBJECTIVES, *METHODS, "<word>", "<table>", ENGINE_TAG, ENDPOINT_TAG)
    where = ".".join(str(part) for part in first["loc"] if part not in tags)
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key{_suggestion(first['loc'], shape)}"
    if first["type"] == "missing":
        return f"{where}: required, not given"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message} (got {first['input']!r:.200})" if where else message


def _suggestion(loc: tuple[int | str, ...], shape: type[AnyRecipe]) -> str:
    sections: list[type[BaseModel]] = [shape]
    for part in loc[:-1]:
        fields = [section.model_fields.get(str(part)) for section in sections]
        # Tags and list indices stay in the section they stand in.
        sections = [m for f in fields if f for m in models_in(f.annotation)] or sections
    names = [f.alias or name for section in sections for name, f in section.model_fields.items()]
    close = difflib.get_close_matches(str(loc[-1]), [n for n in names if n != loc[-1]], n=1)
    found = close or paths_of(str(loc[-1]), shape)[:MOST_SUGGESTED]
    return f", did you mean {' or '.join(found)}?" if found else ""
