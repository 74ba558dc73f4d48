"""Requests that no engine would answer: set aside with the reason, to be asked again on request.

STAGE/set_aside.jsonl       key, reason, time; a line each
"""

import json
import time
from collections.abc import Mapping

import numpy as np

from fastdistill_ray.generation.requests import Requests
from fastdistill_ray.groups.store import Store
from fastdistill_ray.storage.place import Place

SET_ASIDE = "set_aside.jsonl"
STORE = "store"


def note_aside(requests: Requests, aside: Mapping[int, str], stores: Mapping[str, Store]) -> None:
    """In the store that each one's rows would have gone to."""
    for number, reason in aside.items():
        for row in requests.take(np.array([number])).to_pylist():
            store = stores[row[STORE]] if len(stores) > 1 else next(iter(stores.values()))
            file = store.folder / SET_ASIDE
            line = {"key": row[store.key], "reason": reason, "time": time.time()}
            before = file.read_text() if file.is_file() else ""
            file.put(f"{before}{json.dumps(line)}\n")


def set_aside(store: Store) -> dict[str, str]:
    """Key -> why no engine answers it, of those that are not in the store."""
    return _read(store.folder / SET_ASIDE)


def forget_aside(store: Store) -> None:
    """They are asked again."""
    (store.folder / SET_ASIDE).unlink()


def _read(file: Place) -> dict[str, str]:
    if not file.is_file():
        return {}
    lines = map(json.loads, file.read_text().splitlines())
    return {line["key"]: line["reason"] for line in lines}
