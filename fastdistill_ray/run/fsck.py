"""Whether what a run folder holds is as it was written. Reads everything, changes nothing.

What is damaged is made again when the run's own verb is started again: keys of damaged files of a
store are asked again, a damaged stage is done again; nothing else is.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.log import LOG
from fastdistill_ray.groups.store import Store
from fastdistill_ray.run.folder import damaged_files, place_of_run
from fastdistill_ray.run_files import MANIFEST, RECIPE, STAGE, STAGES, read_json
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet


class Checked(NamedTuple):
    num_stages: int
    num_files: int
    faults: list[str]  # a line each


def fsck(run_dir: str) -> Checked:
    """UserError where it is no run folder."""
    run = place_of_run(run_dir)
    if not (run / STAGES).is_dir() and not (run / RECIPE).is_file():
        raise UserError(f"fsck {run_dir}: no run folder, it holds no {RECIPE}")
    stages = [
        folder
        for kind in (run / STAGES).list()
        for folder in kind.list()
        if (folder / STAGE).is_file()
    ]
    faults = [fault for folder in stages for fault in _faults(folder)]
    return Checked(len(stages), sum(len(folder.walk()) for folder in stages), faults)


def _faults(folder: Place) -> Iterator[str]:
    try:
        manifest = read_json(folder / MANIFEST, {})
        read_json(folder / STAGE, {})
    except UserError as error:
        yield str(error)
        return
    if (folder / LOG).is_dir():
        yield from _store_faults(Store(folder), manifest.get("files", {}))
        manifest = {**manifest, "files": _others(manifest.get("files", {}))}
    yield from damaged_files(folder, manifest)
    for file in folder.list():
        if file.name.endswith(".parquet"):
            try:
                read_parquet(file)
            except (OSError, pa.ArrowInvalid) as error:
                yield f"{file} cannot be read: {error}"


def _store_faults(store: Store, files: Iterable[str]) -> Iterator[str]:
    yield from store.lost(files) or filter(None, [store.log.fault()])
    for name, what in store.damaged(is_deep=True).items():
        yield f"{store.folder / name} {what}"
    seen: set[str] = set()
    for commit in store.sound():
        twice = seen.intersection(commit.keys)
        seen.update(commit.keys)
        if twice:
            yield f"{store.folder / commit.file}: {len(twice)} keys are logged twice: {min(twice)}"


def _others(files: dict[str, int]) -> dict[str, int]:
    """Without those of the store, which its log tells of."""
    return {name: size for name, size in files.items() if not name.startswith("part-")}
