"""Requests that no engine would answer, in `set_aside.jsonl` of their stage: a line each with key,
reason and time. They are asked again on request."""

import json
import time
from collections.abc import Mapping

import numpy as np

from fastdistill_ray.generation.requests import Requests
from fastdistill_ray.groups.store import STORE, Store
from fastdistill_ray.storage.place import Journal

SET_ASIDE = "set_aside.jsonl"


def note_aside(requests: Requests, aside: Mapping[int, str], stores: Mapping[str, Store]) -> None:
    """In the store that each one's rows would have gone to."""
    added: dict[str, list[str]] = {}
    for number, reason in aside.items():
        for row in requests.take(np.array([number])).to_pylist():
            name = row[STORE] if len(stores) > 1 else next(iter(stores))
            line = {"key": row[stores[name].key], "reason": reason, "time": time.time()}
            added.setdefault(name, []).append(json.dumps(line))
    for name, lines in added.items():
        journal = Journal(stores[name].folder / SET_ASIDE)
        for line in lines:
            journal.append(line)
        journal.sync()


def set_aside(store: Store) -> dict[str, str]:
    """Key -> why no engine answers it, of those that are not in the store."""
    file = store.folder / SET_ASIDE
    lines = file.read_text().splitlines() if file.is_file() else []
    return {line["key"]: line["reason"] for line in map(json.loads, lines)}


def forget_aside(store: Store) -> None:
    """They are asked again."""
    (store.folder / SET_ASIDE).unlink()
