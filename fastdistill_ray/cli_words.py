"""Verbs of `fastdistill` that only say something of recipes and of this machine."""

import argparse
from collections.abc import Callable
from pathlib import Path

from fastdistill_ray.errors import UserError


def add_words(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    listing = add_parser("ls", help="the shipped recipes, a line each")
    listing.set_defaults(run=run_ls)
    show = add_parser(
        "show",
        help="a recipe whole: what it extends, its defaults and your changes put together",
        allow_abbrev=False,
    )
    _takes_recipe(show)
    show.set_defaults(run=run_show)
    validate = add_parser(
        "validate",
        help="check all of a recipe that needs no cluster: models, templates, rewards, problems",
        description="A line for each thing that is well, exit code 2 at the first that is not. "
        "Configs and tokenizers of models that are not here are downloaded, weights are not.",
        allow_abbrev=False,
    )
    _takes_recipe(validate)
    validate.set_defaults(run=run_validate)
    init = add_parser(
        "init",
        help="write a commented recipe for a task, a teacher and a student, once they are checked",
        allow_abbrev=False,
    )
    init.add_argument("file", metavar="FILE.yaml")
    init.add_argument("--task", required=True, help="gsm8k, word_problems, jsonl, hub, ...")
    init.add_argument("--path", default="", help="of the problems: a file, a folder, org/name")
    init.add_argument("--teacher", required=True, help="a model: hub id, folder, .gguf file")
    init.add_argument("--student", required=True, help="a model")
    init.add_argument(
        "--api",
        default="",
        metavar="URL",
        help="the server that has the teacher; TEACHER_KEY holds its key, where it has one",
    )
    init.add_argument("--gpus", type=int, default=0, help="of this machine, for each part in turn")
    init.set_defaults(run=run_init)
    env = add_parser("env", help="this machine as runs see it: versions, devices, Ray heads")
    env.set_defaults(run=run_env)
    fields = add_parser(
        "fields", help="every field of a recipe, its default, meaning, type and range"
    )
    fields.add_argument(
        "words", metavar="WORD", nargs="*", help="only those with it in their name or meaning"
    )
    fields.add_argument(
        "--job", default="distill", help="whose recipe, such as box (default: distill)"
    )
    fields.add_argument(
        "--schema",
        action="store_true",
        help="a JSON schema of recipes for an editor, which completes and checks as you write",
    )
    fields.set_defaults(run=run_fields)


def _takes_recipe(parser: argparse.ArgumentParser) -> None:
    """And any change of it."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a shipped one's name")
    parser.epilog = "Any field of the recipe: --section.field=value; see `fastdistill fields`."


def run_ls(_arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.recipe.shipped import describe_shipped

    print(describe_shipped())
    return 0


def run_show(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from fastdistill_ray.recipe.loading import dump_recipe, load_any

    print(dump_recipe(load_any(arguments.recipe, overrides)), end="")
    return 0


def run_validate(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from fastdistill_ray.recipe.loading import load_any
    from fastdistill_ray.recipe.paths import with_absolute_paths
    from fastdistill_ray.run.driver import quiet
    from fastdistill_ray.run.validation import validate

    quiet()
    for line in validate(with_absolute_paths(load_any(arguments.recipe, overrides))):
        print(line, flush=True)
    return 0


def run_init(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from fastdistill_ray.recipe.begin import begin
    from fastdistill_ray.recipe.paths import with_absolute_paths
    from fastdistill_ray.run.driver import quiet
    from fastdistill_ray.run.validation import validate

    if overrides:
        raise UserError(f"unknown argument {overrides[0]}; fields are changed in the file")
    file = Path(arguments.file)
    if file.exists():
        raise UserError(f"{file}: is there already; name another file")
    if not file.parent.is_dir():
        raise UserError(f"{file}: there is no folder {file.parent}; make it first")
    given = {"path": arguments.path, "api": arguments.api, "gpus": arguments.gpus}
    text, recipe = begin(arguments.task, arguments.teacher, arguments.student, **given)
    quiet()
    for line in validate(with_absolute_paths(recipe)):
        print(line, flush=True)
    file.write_text(text, encoding="utf-8")
    print(f"{file}\nnext: fastdistill distill {file} --dry-run")
    return 0


def run_env(_arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.run.machine import describe_machine

    print(describe_machine())
    return 0


def run_fields(arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.recipe.fields import describe_fields, schema
    from fastdistill_ray.recipe.shapes import SHAPES

    if arguments.job not in SHAPES:
        raise UserError(f"--job {arguments.job}: expected one of {', '.join(SHAPES)}")
    shape = SHAPES[arguments.job]
    print(schema(shape) if arguments.schema else describe_fields(arguments.words, shape))
    return 0
