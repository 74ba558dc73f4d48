"""Verbs of `fastdistill` for what a run has made: serve and push a student, clean the folder."""

import argparse
import os
import shlex
from collections.abc import Callable

from fastdistill_ray.errors import UserError


def add_hand_over(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    serve = add_parser(
        "serve",
        help="serve a run's student by vLLM, with OpenAI's API",
        description="Prints the command, then becomes it. Other arguments are vLLM's own, such as "
        "--port=8001.",
        allow_abbrev=False,
    )
    _add_run(serve)
    serve.add_argument("--print", action="store_true", help="print the command alone")
    serve.set_defaults(run=run_serve)
    push = add_parser(
        "push",
        help="upload a run's student with its model card to the Hugging Face hub",
        description="With the token of `hf auth login` or HF_TOKEN. What is there already is not "
        "sent again.",
        allow_abbrev=False,
    )
    _add_run(push)
    push.add_argument("repository", metavar="ORG/NAME", help="made where there is none")
    push.add_argument("--private", action="store_true", help="a new one is seen by you alone")
    push.add_argument("--adapter", action="store_true", help="the LoRA adapter, not the merged")
    push.set_defaults(run=run_push)
    clean = add_parser(
        "clean",
        help="list, and with --yes delete, what no recipe of a run folder needs",
        description="Stages that the graph of no recipe names. Groups and signals were paid for "
        "and stay, without --paid.",
        allow_abbrev=False,
    )
    clean.add_argument("run_dir", metavar="RUN_DIR")
    clean.add_argument(
        "--earlier",
        action="store_true",
        help="also the reports and students of recipes that ran before the last, and their stages",
    )
    clean.add_argument("--paid", action="store_true", help="such groups and signals too")
    clean.add_argument("--yes", action="store_true", help="delete; without it they are listed")
    clean.set_defaults(run=run_clean)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR")
    parser.add_argument("--student", default="", help="its name (default: the recipe's own)")


def run_serve(arguments: argparse.Namespace, extra: list[str]) -> int:
    from fastdistill_ray.run.handing_over import serving

    command = serving(arguments.run_dir, arguments.student, extra)
    print(shlex.join(command), flush=True)
    if not arguments.print:
        os.execv(command[0], command)
    return 0


def run_push(arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.run.handing_over import push

    if "/" not in arguments.repository:
        raise UserError(f"push {arguments.repository}: expected ORG/NAME, such as me/my-student")
    print(
        push(
            arguments.run_dir,
            arguments.repository,
            arguments.student,
            is_private=arguments.private,
            is_adapter=arguments.adapter,
        )
    )
    return 0


def run_clean(arguments: argparse.Namespace, _overrides: list[str]) -> int:
    from fastdistill_ray.run.cleaning import clean
    from fastdistill_ray.storage.room import gib

    found = clean(
        arguments.run_dir,
        with_paid=arguments.paid,
        with_earlier=arguments.earlier,
        is_deleting=arguments.yes,
    )
    for place, size in found.items():
        print(f"{gib(size):>9}  {place}")
    done = "deleted" if arguments.yes else "would be deleted with --yes"
    total = f"{len(found)} folders, {gib(sum(found.values()))} {done}"
    print(total if found else "nothing to clean")
    return 0
