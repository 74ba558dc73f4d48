"""What a run folder holds that no recipe of it needs any more."""

from collections.abc import Iterator

from fastdistill_ray.endpoints.ledger import PAID as LEDGER
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.loading import load_any
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.folder import place_of_run
from fastdistill_ray.run.forecast import stages_there
from fastdistill_ray.run.lease import lease
from fastdistill_ray.run.stages import NEW_PROBLEMS, REWRITTEN, SIGNALS, WRITTEN
from fastdistill_ray.run_files import RECIPE, RECIPES, STAGES, stage_folders
from fastdistill_ray.storage.place import Place

PAID = (
    "groups",
    NEW_PROBLEMS,
    WRITTEN,
    REWRITTEN,
    SIGNALS,
)  # kinds of stages for which a model was asked


def clean(
    run_dir: str, *, with_paid: bool, with_earlier: bool, is_deleting: bool
) -> dict[Place, int]:
    """Stages that the graph of no recipe names -> their bytes; with `with_earlier`, recipes that
    ran before the last count no longer. Deleted where that is wanted. UserError where it is no run
    folder, or somebody writes it."""
    run = place_of_run(run_dir)
    if not (run / RECIPE).is_file():
        raise UserError(f"clean {run_dir}: no run folder, it holds no {RECIPE}")
    if not is_deleting:
        return _sizes(run, with_paid, with_earlier)
    with lease(run):
        found = _sizes(run, with_paid, with_earlier)
        for place in found:
            place.remove_tree()
    return found


def _sizes(run: Place, with_paid: bool, with_earlier: bool) -> dict[Place, int]:
    seen: set[tuple[int, int]] = set()
    found = _needless(run, with_paid, with_earlier)
    return {place: sum(_size(file, seen) for file in place.walk()) for place in found}


def _size(file: Place, seen: set[tuple[int, int]]) -> int:
    """Of several hard links to one file only the first counts."""
    if not file.is_local:
        return file.size()
    state = file.local.stat()
    is_first = (state.st_dev, state.st_ino) not in seen
    seen.add((state.st_dev, state.st_ino))
    return state.st_size if is_first else 0


def _reused(run: Place) -> list[Place]:
    """What the last recipe takes of those before it, also where it has not come to it."""
    recipe = load_any(run / RECIPE, [])
    return stages_there(recipe, run) if isinstance(recipe, Recipe) else []


def _needless(run: Place, with_paid: bool, with_earlier: bool) -> Iterator[Place]:
    earlier = (run / RECIPES).list()
    views = [run] if with_earlier else [run, *earlier]
    needed = {str(folder) for view in views for folder in stage_folders(view).values()}
    if with_earlier:
        needed |= {str(folder) for folder in _reused(run)}
        yield from earlier
    for kind in (run / STAGES).list():
        for stage in kind.list():
            is_paid = kind.name in PAID or (stage / LEDGER).is_dir()
            if (with_paid or not is_paid) and str(stage) not in needed:
                yield stage
