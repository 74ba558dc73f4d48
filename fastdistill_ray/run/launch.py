"""What a verb does on the user's machine: check what needs no cluster, then submit the job to one.

Loads Ray last, torch and vLLM never.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastdistill_ray.endpoints.knobs import ServerKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.derived import all_teachers
from fastdistill_ray.recipe.paths import with_absolute_paths
from fastdistill_ray.recipe.tree import AnyRecipe, Recipe
from fastdistill_ray.run.folder import JobFolder, RunFolder, check_writable, place_of_run
from fastdistill_ray.run.forecast import REFUSED, check_run, describe_plan
from fastdistill_ray.run.inputs import check_files
from fastdistill_ray.run.lease import check_free
from fastdistill_ray.run.needed import NEEDED
from fastdistill_ray.storage.place import Place


def plan(
    recipe: AnyRecipe,
    run_dir: str = "",
    address: str = "",
    verb: str = "distill",
    again: Sequence[str] = (),
) -> str:
    """What the job would do; a run folder on another machine is not looked into."""
    recipe = with_absolute_paths(recipe)
    place, refused = run_place(recipe, run_dir), ""
    try:
        _folder_of(recipe, place, run_dir, address)
    except UserError as error:
        refused = f"\n{REFUSED:<28} {error}"
    is_unseen = bool(address or refused)
    lines = [describe_plan(recipe, None if is_unseen else place, verb, again) + refused]
    if isinstance(recipe, Recipe) and not address:
        lines += _unset_keys(recipe)
    return "\n".join(lines)


def _unset_keys(recipe: Recipe) -> list[str]:
    """A line for each server whose key this machine does not hold."""
    servers: dict[str, ServerKnobs | None] = {
        f"{name}.engine": one.endpoint for name, one in all_teachers(recipe).items()
    }
    servers["reward.llm_judge"] = recipe.reward.llm_judge
    return [
        f"{section}.api_key_env: {knobs.api_key_env} is not set here; the job needs it"
        for section, knobs in servers.items()
        if knobs and knobs.api_key_env and not os.environ.get(knobs.api_key_env)
    ]


def launch(
    verb: str,
    recipe: AnyRecipe,
    run_dir: str = "",
    address: str = "",
    again: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> int:
    """Runs jobs/<verb>.py of the recipe on a Ray cluster and streams its log; -> its exit code.

    address: of a Ray dashboard ("": $RAY_ADDRESS, else the head on this machine, else one for the
    time of this job). again: "groups", "answers", "set_aside". variables: what the environment of
    the job has beside its node's. UserError before anything starts, one line.
    """
    recipe = with_absolute_paths(recipe)
    place = check(verb, recipe, run_dir, address, again)
    use_token()
    from fastdistill_ray.run.submission import submit  # noqa: PLC0415  loads Ray

    return submit(verb, recipe, str(place), address, list(again), variables or {})


def check(verb: str, recipe: AnyRecipe, run_dir: str, address: str, again: Sequence[str]) -> Place:
    """What needs no cluster and no model; -> the run folder. UserError is one line."""
    place = run_place(recipe, run_dir)
    if run := _folder_of(recipe, place, run_dir, address):
        _check_here(verb, run, again)
    return place


def _folder_of(
    recipe: AnyRecipe, place: Place, run_dir: str, address: str
) -> JobFolder[Any] | None:
    """What can be the run folder; None: that of another machine, which is checked there."""
    if address and place.is_local and not Path(run_dir).is_absolute():
        raise UserError("--run-dir: with --address, name an absolute folder that its nodes share")
    if address:
        return None
    run = RunFolder(place, recipe) if isinstance(recipe, Recipe) else JobFolder(place, recipe)
    check_writable(place)
    return run


def variables_of(names: Sequence[str]) -> dict[str, str]:
    """Those of this process's environment; UserError for one that is not set."""
    if unset := [name for name in names if not os.environ.get(name)]:
        raise UserError(f"--env {unset[0]}: it is not set here")
    return {name: os.environ[name] for name in names}


def run_place(recipe: AnyRecipe, run_dir: str = "") -> Place:
    """The run folder that is meant; "": runs/<the recipe's name>, from here."""
    return place_of_run(run_dir or Path("runs") / recipe.name)


def _check_here(verb: str, run: JobFolder[Any], again: Sequence[str]) -> None:
    check_free(run.path)
    if isinstance(run, RunFolder):
        is_here = not _names_another_machine()
        check_run(run.recipe, run.path, list(again), is_here=is_here, verb=verb)
        NEEDED.get(verb, lambda _: None)(run)
    elif not _names_another_machine():
        check_files(run.recipe)


def _names_another_machine() -> bool:
    """Files of the recipe may then be only there."""
    named = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or ""
    host = urlsplit(named).hostname or named.partition(":")[0]
    return host not in ("", "auto", "local", "localhost", "127.0.0.1")


def use_token() -> None:
    """A Ray 2.60 cluster asks for a token by default, its clients send none by default, and both
    read the mode when Ray is imported. The token file is made where there is none yet."""
    if os.environ.setdefault("RAY_AUTH_MODE", "token") != "token":
        return
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if not has_token and not (Path.home() / ".ray" / "auth_token").exists():
        ray = str(Path(sys.executable).parent / "ray")
        try:
            subprocess.run([ray, "get-auth-token", "--generate"], check=True, capture_output=True)
        except FileNotFoundError as error:
            raise UserError(f"{ray}: no such command; install ray into this environment") from error
