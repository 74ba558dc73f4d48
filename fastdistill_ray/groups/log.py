"""The log of a store: which files are part of it, in the order in which they arrived.

    log/000007-5f0c21aa-000000.jsonl, ...-000001.jsonl, ...

A segment is written once and never changed: lines with a checksum each, then how many they were. A
writer begins a new term; its first segment repeats all that holds, later ones add to it. The
highest term alone counts, so a writer that another has followed can add nothing any more, and no
file is ever renamed or appended to.
"""

import io
import itertools
import json
import re
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.place import Place

LOG = "log"
SEGMENT = re.compile(r"(\d{6})-([0-9a-f]{8})-(\d{6})\.jsonl")
END = "end"  # key of a segment's last line
MOST_SEGMENTS = 1000  # of a term: then a new one begins, as listing them takes time


class Commit(NamedTuple):
    """One line of the log: a file and what it holds, in row order."""

    file: str
    keys: list[str]
    dropped: list[str]  # "" for a kept row
    num_tokens: int  # completion tokens
    prompt_tokens: int
    time: float
    cost: float = 0.0  # money
    parts: list[tuple[str, int, float]] = []  # (file, rows, time) of each file merged into this
    verdicts: dict[str, int] = {}  # of the completions
    taken_from: str = ""  # the folder of the stage that asked for them, where it is another
    size: int = 0  # bytes of the file
    digest: str = ""  # of its bytes

    @property
    def arrivals(self) -> list[tuple[int, float]]:
        """(rows, when) of each file that was written, also of those merged since."""
        return [part[1:] for part in self.parts] or [(len(self.keys), self.time)]


class Term(NamedTuple):
    """Of a writer; later terms are greater."""

    number: int
    writer: str

    def segment(self, place: int) -> str:
        return f"{self.number:06d}-{self.writer}-{place:06d}.jsonl"


class DamagedSegment(Exception):
    """What is read of it before this is raised can be trusted."""


class SupersededError(UserError):
    """Another writer has begun a later term."""


class Log:
    """Of the store in a folder; `begin` before the first `append`."""

    def __init__(self, folder: Place) -> None:
        self.folder = folder / LOG
        self.writer = uuid.uuid4().hex[:8]
        self.term: Term | None = None  # of this writer
        self.next = 0  # segment of this writer

    def commits(self) -> Iterator[Commit]:
        """All lines that hold; DamagedSegment after those that are whole."""
        return (commit for commit, _ in Follower(self.folder).new())

    def fault(self) -> str:
        """What is damaged in it, if anything."""
        try:
            for _ in self.commits():
                pass
        except DamagedSegment as error:
            return str(error)
        return ""

    def begin(self, commits: Iterable[Commit]) -> None:
        """From now on these lines are the log and this writer alone adds to it."""
        found = self.segments()
        newest = max((term.number for term in found), default=0)
        self.term, self.next = Term(newest + 1, self.writer), 0
        self._put(commits)
        for term, places in found.items():
            for place in places:
                (self.folder / term.segment(place)).unlink()

    def append(self, commits: list[Commit]) -> None:
        """SupersededError where another writer has taken over: the lines do not count then."""
        assert self.term, "begin comes first"
        if self.next == MOST_SEGMENTS:
            self.begin(itertools.chain(self.commits(), commits))
        else:
            self._put(commits)
        if max(self.segments()) != self.term:
            raise SupersededError(
                f"{self.folder.parent}: another driver has begun to write here; this one stops"
            )

    def segments(self) -> dict[Term, list[int]]:
        """Those that are there, by term, in order."""
        found: dict[Term, list[int]] = {}
        for name in sorted(self.folder.sizes()):
            if match := SEGMENT.fullmatch(name):
                number, writer, place = match.groups()
                found.setdefault(Term(int(number), writer), []).append(int(place))
        return found

    def _put(self, commits: Iterable[Commit]) -> None:
        assert self.term
        count = 0
        with (self.folder / self.term.segment(self.next)).create() as file:
            for commit in commits:
                file.write(_checked(json.dumps(commit._asdict())))
                count += 1
            file.write(_checked(json.dumps({END: count, "time": time.time()})))
        self.next += 1


class Follower:
    """The lines of a log, each once, as they are written; `folder` is that of its segments."""

    def __init__(self, folder: Place) -> None:
        self.log = Log(folder.parent)
        self.term: Term | None = None
        self.next = 0  # segment to read
        self.before = 0  # rows of the segments before it
        self.given = 0  # rows of all lines given

    def new(self) -> Iterator[tuple[Commit, int]]:
        """Lines since the last call, each with its first row that was not given before: a later
        term may repeat rows as part of a longer line. DamagedSegment after what is whole."""
        while segments := self.log.segments():
            term = max(segments)
            if term != self.term:
                self.term, self.next, self.before = term, 0, 0
            try:
                yield from self._read(term, segments[term])
                return
            except FileNotFoundError:
                continue  # a later term has begun since they were listed

    def _read(self, term: Term, places: list[int]) -> Iterator[tuple[Commit, int]]:
        for place in places[self.next :]:
            if place != self.next:
                raise DamagedSegment(f"{self.log.folder / term.segment(self.next)}: missing")
            end = self.before
            for commit in read_segment(self.log.folder / term.segment(place)):
                start, end = end, end + len(commit.keys)
                if end > self.given:
                    first = max(self.given - start, 0)
                    self.given = end
                    yield commit, first
            self.next, self.before = place + 1, end


def read_segment(file: Place) -> Iterator[Commit]:
    """DamagedSegment after the lines before the damage."""
    count = 0
    with io.BufferedReader(file.file_system.open_input_stream(file.path)) as stream:  # type: ignore[arg-type]
        for line in stream:
            text, _, checksum = line.rstrip(b"\n").rpartition(b"\t")
            if f"{zlib.crc32(text):08x}".encode() != checksum:
                raise DamagedSegment(f"{file}: line {count + 1} is damaged")
            tree = json.loads(text)
            if END in tree:
                if tree[END] != count:
                    raise DamagedSegment(f"{file}: {count} of {tree[END]} lines are left")
                return
            count += 1
            yield Commit(**tree)
    raise DamagedSegment(f"{file}: cut off after line {count}")


def _checked(text: str) -> bytes:
    line = text.encode()
    return line + f"\t{zlib.crc32(line):08x}\n".encode()
