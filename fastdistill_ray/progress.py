"""Progress a person can read in a terminal and in `ray job logs`: one line every few seconds."""

import contextlib
import re
import time
from typing import TextIO

BAR_WIDTH = 24
BAR = re.compile(r"^(.+?) +\[#*\.*\] \d+/\d+(  |$)")  # how a line of `bar_line` begins
# What Ray says of itself in every job's log.
OF_RAY = re.compile(
    r" -- Runtime env is setting up\.$|: Set ray log level from environment "
    r"|^Running entrypoint for job "
)
BEGIN, ERASE = "\r", "\x1b[2K"  # of a terminal's line
SECONDS_BETWEEN_LINES = 5.0
KNOWN = 0.05  # share of the work from which its pace tells how long the rest takes


def bar_line(label: str, done: int, total: int, left: float | None, facts: str) -> str:
    """`label  [####....] 12/50  facts  left 0:45`; `left` in seconds, None where unknown."""
    share = min(done / total, 1.0) if total else 1.0
    bar = "#" * round(BAR_WIDTH * share)
    remaining = "" if left is None else f"left {duration(left)}"
    return f"{label:<22} [{bar:.<{BAR_WIDTH}}] {done}/{total}  {facts}  {remaining}".rstrip()


class Screen:
    """Where a job's log is shown, line by line: on a terminal the next line of a bar takes the
    place of the one before it; into a file or a pipe every line is written."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.bar = ""  # whose line stands there and may be replaced
        self.rest = ""  # of a line that has not ended yet

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        kept = [line for line in lines if not OF_RAY.search(line)]
        is_terminal = self.out.isatty()
        self.out.write("".join(self._shown(line) if is_terminal else f"{line}\n" for line in kept))
        self.out.flush()

    def end(self) -> None:
        """What is left is shown; what comes then begins a line. The terminal may be what went
        away: that must not take the place of what is to happen then."""
        with contextlib.suppress(OSError):
            self.out.write(("\n" if self.bar else "") + self.rest)
            self.out.flush()
        self.bar = self.rest = ""

    def _shown(self, line: str) -> str:
        found = BAR.match(line)
        before, self.bar = self.bar, found[1] if found else ""
        start = f"{BEGIN}{ERASE}" if before and before == self.bar else "\n" * bool(before)
        return start + line + ("" if found else "\n")


def amount(money: float) -> str:
    """Of small sums the first two digits that are not 0."""
    return f"{money:,.2f}" if money >= 0.1 else f"{money:.2g}"


def duration(seconds: float) -> str:
    """`0:45`, `12:05` or `3:07:09`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class Progress:
    """Counts what is done and prints a line now and then; `end` prints what no line has shown."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self.already = done
        self.start = 0.0  # of the first advance: an engine's start-up is not its pace
        self.printed = 0.0
        self.shown = done  # in the last line
        self.tokens = 0  # since the first advance
        self.all_tokens = 0
        self.facts = ""

    def advance(self, amount: int, tokens: int, facts: str = "") -> None:
        """`amount` more is done, made of `tokens`; `facts` stand before the pace."""
        now = time.monotonic()
        if not self.start:
            self.start, self.already = now, self.done + amount
        else:
            self.tokens += tokens
        self.done += amount
        self.all_tokens += tokens
        self.facts = facts
        if now - self.printed >= SECONDS_BETWEEN_LINES:
            self._print(now)

    def end(self) -> None:
        if self.start and self.done != self.shown:
            self._print(time.monotonic())

    def _print(self, now: float) -> None:
        self.printed, self.shown = now, self.done
        seconds = now - self.start
        rate = f"{self.tokens / seconds:.0f} tokens/s" if self.tokens else ""
        new = self.done - self.already
        is_known = new > 0 and self.done >= KNOWN * self.total
        left = seconds / new * max(self.total - self.done, 0) if is_known else None
        facts = "  ".join(filter(None, [self.facts, rate]))
        print(bar_line(self.label, self.done, self.total, left, facts), flush=True)  # noqa: T201
