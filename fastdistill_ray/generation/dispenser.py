"""Who asks which request: numbers handed to engine actors as they have room, and what became of
each.

A number whose actor died is handed out again; after a second death it is asked alone, so that it is
seen which request kills engines, and after a third failure of any kind it is set aside with the
reason. Where an actor's node was short of memory, that is no fault of the many it asked at once:
it is given half as many from then on. No Ray here: it is the state of one actor, of which every
engine actor asks.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

ALONE_AFTER, ASIDE_AFTER = 2, 3  # failures of a request
RESTARTS_PER_HOUR = 10  # of one engine; one that dies more often ends the stage
DEATHS_AT_START = 3  # in a row, of an engine that is not ready before it dies
HOUR = 3600.0
ENDED = "nobody waits for the answers any more"  # why one is abandoned that has nothing wrong
SILENT_SECONDS = 180.0  # an actor that says nothing for so long, with its node perhaps, is gone
SEAT_LOST_SECONDS = 10.0  # without a new seat though an engine has none
SHORT_OF_MEMORY = (
    "its node was short of memory; fewer workers on a node, a smaller max_num_seqs or a smaller "
    "cpu_kv_cache_gib need less"
)


class Status(NamedTuple):
    num_done: int
    num_out: int
    num_waiting: int  # not handed out
    num_actors: int  # with an engine that is ready
    num_loading: int  # whose engine is being started
    seconds_quiet: float  # since anything came back, or an engine became ready
    num_deaths: int
    num_failures: int  # of requests
    aside: dict[int, str]  # number -> why
    shares: dict[str, int]  # of actors whose memory was short -> n: each is given 1 / n
    stopped: str  # why nothing more is handed out
    crashed: str  # traceback, where that is a fault of ours
    troubles: list[str]  # why servers do not answer now
    is_abandoned: bool


class Dispenser:
    """`most_aside` requests may be set aside; one more ends the stage."""

    def __init__(
        self,
        total: int,
        num_seats: int,
        most_aside: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.num_seats, self.most_aside = total, num_seats, most_aside
        self.open = total  # numbers from here on are held back
        self.clock = clock
        self.fresh = 0  # the next number never handed out
        self.again: deque[int] = deque()
        self.alone: deque[int] = deque()
        self.suspects: set[int] = set()  # asked alone
        self.out: dict[str, set[int]] = {}  # actor -> numbers it asks
        self.failures: Counter[int] = Counter()
        self.aside: dict[int, str] = {}
        self.num_done = self.num_deaths = 0
        self.seats_made = self.seats_taken = 0
        self.seat_made = clock()  # when the last was
        self.seated: set[str] = set()  # actors
        self.unseated: set[str] = set()  # actors that lost theirs, with answers to be given
        self.starts: dict[str, list[float]] = {}  # actor -> when its engines were started
        self.begun: Counter[str] = Counter()  # actor -> starts since an engine of its was ready
        self.heard: dict[str, float] = {}
        self.words: dict[str, str] = {}  # the last an actor said before it died
        self.shares: dict[str, int] = {}  # actor -> n: it is given 1 / n of what it has room for
        self.stopped = self.crashed = ""
        self.is_abandoned = False
        self.is_dump_wanted, self.dumps = False, dict[str, str]()
        self.moved = clock()
        self.answered: dict[str, int] = {}  # by actor
        self.troubles: dict[str, str] = {}  # by actor

    def begin(self, actor: str, was_short_of_memory: bool = False) -> bool:
        """An engine is about to be started, if so answered; where that actor had begun one before,
        it died."""
        now = self.clock()
        starts = self.starts.setdefault(actor, [])
        if was_short_of_memory:
            self.words[actor] = SHORT_OF_MEMORY
            self._spare(actor)
        said = self.words.get(actor, "its process is gone, see the logs of Ray on its node")
        if starts:
            self._lost(actor)
        starts.append(now)
        self.starts[actor] = recent = [start for start in starts if now - start < HOUR]
        self.begun[actor] += 1
        if self.begun[actor] > DEATHS_AT_START:
            self.stop(f"an engine died {DEATHS_AT_START} times as it started; the last: {said}")
        elif len(recent) > RESTARTS_PER_HOUR:
            self.stop(f"an engine died {len(recent) - 1} times within an hour; the last: {said}")
        return not self.stopped

    def enter(self, actor: str) -> None:
        """The engine that was begun is ready."""
        self.heard[actor] = self.moved = self.clock()
        self.begun[actor] = 0

    def allow(self, most: int) -> None:
        """Numbers below `most` may be handed out, the others not yet: nobody sits and waits for
        these, as a seat gives its last answers only when it is left."""
        before, self.open = self.open, min(most, self.total)
        if self.open > before:
            self.moved = self.clock()

    def beat(self, actor: str, num_answered: int = 0, trouble: str = "") -> bool:
        """The actor lives, and its engine has had so many answers, of which several may make one of
        ours, or has `trouble` with its server; -> whether it is to say where it is."""
        self.troubles[actor] = trouble
        self.heard[actor] = self.clock()
        if num_answered > self.answered.get(actor, 0):
            self.moved = self.heard[actor]
        self.answered[actor] = num_answered
        return self.is_dump_wanted and actor not in self.dumps

    def want_dumps(self) -> None:
        self.is_dump_wanted = True

    def note_dump(self, actor: str, text: str) -> None:
        self.dumps[actor] = text

    def get_dumps(self) -> dict[str, str]:
        return self.dumps

    def last_words(self, actor: str, text: str) -> None:
        """Why an actor is about to die."""
        self.words[actor] = text

    def wants_seat(self) -> bool:
        """Whether another task may wait for an actor; each takes one seat. Where nothing is left
        to be handed out, actors without one are released. Seats are lost with actors that die;
        where an engine that lives gets none, there is another."""
        if not (self.open > self.fresh or self.again or self.alone or self.unseated):
            return False
        now = self.clock()
        if self.seats_made - self.seats_taken >= self.num_seats:
            idle = [
                actor
                for actor, heard in self.heard.items()
                if actor not in self.seated and now - heard < SEAT_LOST_SECONDS
            ]
            if not idle or now - self.seat_made < SEAT_LOST_SECONDS:
                return False
        self.seats_made += 1
        self.seat_made = now
        return True

    def take_seat(self, actor: str) -> None:
        self.heard[actor] = self.clock()
        self.seats_taken += 1
        self.seated.add(actor)
        self.unseated.discard(actor)

    def leave_seat(self, actor: str) -> None:
        self.seated.discard(actor)

    def lose_seat(self, actor: str) -> None:
        """Its task ended before its answers were taken over; it has them still."""
        self.seated.discard(actor)
        self.unseated.add(actor)

    def take(
        self, actor: str, done: list[int], failed: dict[int, str], want: int
    ) -> tuple[list[int], list[int], bool]:
        """(those of `done` whose answers count, up to `want` more numbers, whether what is asked is
        to be waited for no longer)."""
        self.heard[actor] = now = self.clock()
        mine = self.out.setdefault(actor, set())
        counts = [number for number in done if number in mine]
        mine.difference_update(counts)
        self.num_done += len(counts)
        if done or failed:
            self.moved = now
        for number, reason in failed.items():
            if number in mine:
                mine.discard(number)
                self._failed(number, reason, self.again)
        self.suspects.difference_update(counts)
        if self.stopped or mine & self.suspects:
            return counts, [], self.is_abandoned
        want = min(want, max(1, (want + len(mine)) // self.shares.get(actor, 1)) - len(mine))
        num_open = len(self.again) + max(0, self.open - self.fresh)
        numbers = [self._next() for _ in range(min(want, num_open))]
        if not numbers and not mine and self.alone and want > 0:
            numbers = [self.alone.popleft()]
        mine.update(numbers)
        return counts, numbers, False

    def is_over(self) -> bool:
        """Whether nothing is to be handed out any more and nothing is out."""
        if self.stopped:
            return True
        now = self.clock()
        for actor, heard in self.heard.items():
            waits = self.out.get(actor) or actor in self.unseated
            if waits and now - heard > SILENT_SECONDS:
                self.words[actor] = f"not heard of for {SILENT_SECONDS:.0f} s"
                self._lost(actor)
        is_out = any(self.out.values()) or self.unseated
        return not (self._num_fresh or self.again or self.alone or is_out)

    def stop(self, reason: str) -> None:
        """Nothing more is handed out; the first reason is a line for the user."""
        self.stopped = self.stopped or reason

    def abandon(self, reason: str) -> None:
        """As `stop`; what is asked already will not come."""
        self.stop(reason)
        self.is_abandoned = True

    def crash(self, traceback: str) -> None:
        """As `stop`, for a fault of ours."""
        self.crashed = self.crashed or traceback
        self.stop("an engine's actor raised what it should not")

    def status(self) -> Status:
        is_idle = not (self.again or self.alone or any(self.out.values()))
        is_held = is_idle and self.open <= self.fresh < self.total
        return Status(
            self.num_done,
            sum(map(len, self.out.values())),
            self._num_fresh + len(self.again) + len(self.alone),
            sum(not self.begun[actor] for actor in self.starts),
            sum(self.begun[actor] > 0 for actor in self.starts),
            0.0 if is_held else self.clock() - self.moved,
            self.num_deaths,
            self.failures.total(),
            self.aside,
            self.shares,
            self.stopped,
            self.crashed,
            sorted({trouble for trouble in self.troubles.values() if trouble}),
            self.is_abandoned,
        )

    @property
    def _num_fresh(self) -> int:
        return self.total - self.fresh

    def _next(self) -> int:
        if self.again:
            return self.again.popleft()
        self.fresh += 1
        return self.fresh - 1

    def _spare(self, actor: str) -> None:
        """The memory was not enough for all that it asked at once; where that was one request, it
        is the request."""
        asked = self.out.get(actor, set())
        if len(asked) > 1:
            self.shares[actor] = 2 * self.shares.get(actor, 1)
            self.again.extend(sorted(asked - self.suspects))
            asked &= self.suspects

    def _lost(self, actor: str) -> None:
        """An actor died with all it asked."""
        self.num_deaths += 1
        self.seated.discard(actor)
        self.unseated.discard(actor)
        reason = self.words.pop(actor, "the engine's process ended without a word")
        for number in sorted(self.out.pop(actor, ())):
            if self.failures[number] + 1 >= ALONE_AFTER:
                self.suspects.add(number)
            self._failed(number, reason, self.alone if number in self.suspects else self.again)

    def _failed(self, number: int, reason: str, queue: deque[int]) -> None:
        self.failures[number] += 1
        if self.failures[number] < ASIDE_AFTER:
            queue.append(number)
            return
        self.aside[number] = reason
        if len(self.aside) > self.most_aside:
            self.stop(f"{len(self.aside)} requests failed {ASIDE_AFTER} times each; {reason}")
