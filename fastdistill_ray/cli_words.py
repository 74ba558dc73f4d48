"""Verbs of `fastdistill` that only say something of recipes."""

import argparse
from collections.abc import Callable

from fastdistill_ray.errors import UserError


def add_words(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    listing = add_parser("ls", help="the shipped recipes, a line each")
    listing.set_defaults(run=run_ls)
    show = add_parser(
        "show",
        help="a recipe whole: what it extends, its defaults and your changes put together",
        epilog="Any field of the recipe: --section.field=value; see `fastdistill fields`.",
        allow_abbrev=False,
    )
    show.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped one")
    show.set_defaults(run=run_show)
    fields = add_parser(
        "fields", help="every field of a recipe, its default, meaning, type and range"
    )
    fields.add_argument("words", metavar="WORD", nargs="*", help="only those with it in their name")
    fields.add_argument(
        "--job", default="distill", help="whose recipe, such as box (default: distill)"
    )
    fields.add_argument(
        "--schema",
        action="store_true",
        help="a JSON schema of recipes for an editor, which completes and checks as you write",
    )
    fields.set_defaults(run=run_fields)


def run_ls(_arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.recipe.shipped import describe_shipped

    print(describe_shipped())
    return 0


def run_show(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from fastdistill_ray.recipe.loading import dump_recipe, load_any

    print(dump_recipe(load_any(arguments.recipe, overrides)), end="")
    return 0


def run_fields(arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.recipe.fields import describe_fields, schema
    from fastdistill_ray.recipe.shapes import SHAPES

    if arguments.job not in SHAPES:
        raise UserError(f"--job {arguments.job}: expected one of {', '.join(SHAPES)}")
    shape = SHAPES[arguments.job]
    print(schema(shape) if arguments.schema else describe_fields(arguments.words, shape))
    return 0
