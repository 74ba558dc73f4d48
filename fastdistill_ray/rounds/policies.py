"""The students that write a training's texts: weights for each round but the first.

Who trains publishes them, who writes looks for the newest. Version v is the student after v rounds;
its record, a file beside its folder, is written once the folder is whole.
"""

from collections.abc import Callable
from typing import NamedTuple

from fastdistill_ray.groups.shares import RECORD, record_of
from fastdistill_ray.storage.place import Place

PREFIX = "round_"


class Policy(NamedTuple):
    version: int
    weights: str


class Policies(NamedTuple):
    folder: Place
    model: str  # of the student as its tokenizer and engine know it
    steps: int  # updates of a round
    staleness: int  # rounds that who writes may be behind
    max_cut: float  # most texts of a step that may be cut, as a share
    start: str  # weights that the training begins with, version 0
    taught: float | None = None  # share of the teachers' texts that is right, where it is known

    def newest(self) -> Policy:
        version = max(self._versions(), default=0)
        return Policy(version, str(self.place(version)) if version else self.start)

    def place(self, version: int) -> Place:
        return self.folder / f"{PREFIX}{version}"

    def publish(
        self, version: int, write: Callable[[Place], None], *, is_first: bool, share: float = 1.0
    ) -> None:
        """All ranks call this at once; the first of them keeps the record, which says the `share`
        of the round's groups that this student is to write. No weights are written where
        this or a later student is there, as in a training that goes on from a checkpoint."""
        is_new = version > self.newest().version
        if is_new:
            write(self.place(version))
        record = record_of(self.folder, version)
        if is_first and (is_new or not record.is_file()):
            record.put(repr(share))
        if is_first and is_new:
            self._forget_before(version - self.staleness)

    def _forget_before(self, oldest: int) -> None:
        """Once a version is there, all texts of the rounds before it are. Records stay: they say
        which groups the updates of a round were made of."""
        for one in self.folder.list():
            name = one.name.removeprefix(PREFIX)
            if name.isdecimal() and int(name) < oldest:
                one.remove_tree()

    def _versions(self) -> list[int]:
        names = [one.name for one in self.folder.list()]
        found = [name.removeprefix(PREFIX).removesuffix(RECORD) for name in names if RECORD in name]
        return list(map(int, found))
