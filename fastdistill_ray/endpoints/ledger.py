"""What endpoints were paid: a line for each answer, kept or not, in files of a folder `paid`.

An answer that came without its usage, that broke off, or that was waited for in vain may have cost
something nobody told: such are counted and have no price.
"""

import json
import time
import uuid
from typing import NamedTuple

from fastdistill_ray.endpoints.knobs import ServerKnobs
from fastdistill_ray.storage.place import Journal, Place

PAID = "paid"
LINES_PER_FILE = 1000  # a bucket takes the whole file again at each `sync`
SYNC_SECONDS = 2.0


class Paid(NamedTuple):
    """Sums over answers; `untold` are those whose usage no one told."""

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    untold: int = 0


class Ledger:
    """One process's lines. Without a folder nothing is kept."""

    def __init__(self, folder: Place | None, knobs: ServerKnobs) -> None:
        self.folder, self.knobs = folder, knobs
        self.journal: Journal | None = None
        self.num_lines = 0
        self.synced = 0.0

    def note(self, prompt_tokens: int, completion_tokens: int) -> None:
        cost = self.knobs.cost(prompt_tokens, completion_tokens)
        self._add(prompt=prompt_tokens, completion=completion_tokens, cost=cost)

    def note_untold(self, why: str) -> None:
        self._add(untold=why)

    def sync(self) -> None:
        if self.journal:
            self.journal.sync()
        self.synced = time.monotonic()

    def _add(self, **line: float | str) -> None:
        if self.folder is None:
            return
        if self.journal is None or self.num_lines >= LINES_PER_FILE:
            self.sync()
            self.journal = Journal(self.folder / PAID / f"{uuid.uuid4().hex}.jsonl")
            self.num_lines = 0
        self.journal.append(json.dumps({**line, "time": round(time.time(), 3)}))
        self.num_lines += 1
        if time.monotonic() - self.synced > SYNC_SECONDS:
            self.sync()


def paid_in(folder: Place) -> Paid:
    """Over all processes that wrote into the folder; a line that one left half written is one that
    was not told."""
    answers = prompt = completion = untold = 0
    cost = 0.0
    for file in (folder / PAID).list():
        for text in file.read_text().splitlines():
            answers += 1
            try:
                line = json.loads(text)
            except ValueError:
                line = {}
            if "cost" not in line:
                untold += 1
                continue
            prompt += line["prompt"]
            completion += line["completion"]
            cost += line["cost"]
    return Paid(answers, prompt, completion, cost, untold)
