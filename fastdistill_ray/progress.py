"""Progress a person can read in a terminal and in `ray job logs`: one line every few seconds."""

import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from fastdistill_ray.trackers import Trackers

BAR_WIDTH = 24
SECONDS_BETWEEN_LINES = 5.0


def bar_line(label: str, done: int, total: int, left: float | None, facts: str) -> str:
    """`label  [####....] 12/50  facts  left 0:45`; `left` in seconds, None where unknown."""
    share = min(done / total, 1.0) if total else 1.0
    bar = "#" * round(BAR_WIDTH * share)
    remaining = "" if left is None else f"left {duration(left)}"
    return f"{label:<22} [{bar:.<{BAR_WIDTH}}] {done}/{total}  {facts}  {remaining}".rstrip()


def duration(seconds: float) -> str:
    """`0:45`, `12:05` or `3:07:09`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class Progress:
    """Counts what is done and prints a line now and then; `end` prints the last one."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self.already = done
        self.start = 0.0  # of the first advance: an engine's start-up is not its pace
        self.printed = 0.0
        self.tokens = 0
        self.facts = ""

    def advance(self, amount: int, tokens: int, facts: str = "") -> None:
        """`amount` more is done, made of `tokens`; `facts` stand before the pace."""
        now = time.monotonic()
        if not self.start:
            self.start, self.already = now, self.done + amount
        else:
            self.tokens += tokens
        self.done += amount
        self.facts = facts
        if now - self.printed >= SECONDS_BETWEEN_LINES:
            self._print(now)

    def end(self) -> None:
        if self.start:
            self._print(time.monotonic())

    def _print(self, now: float) -> None:
        self.printed = now
        seconds = now - self.start
        rate = f"{self.tokens / seconds:.0f} tokens/s" if self.tokens else ""
        new = self.done - self.already
        left = seconds / new * max(self.total - self.done, 0) if new > 0 else None
        facts = "  ".join(filter(None, [self.facts, rate]))
        print(bar_line(self.label, self.done, self.total, left, facts), flush=True)  # noqa: T201


def step_facts(line: dict[str, float]) -> str:
    """`epoch 1  loss 0.4103 (ce 0.3101, contrastive 0.2004)  ...` of a line of metrics.jsonl."""
    names = list(line)
    names = names[names.index("train/loss") + 1 : names.index("train/grad_norm")]
    parts = [f"{name.removeprefix('train/')} {line[name]:.4f}" for name in names]
    facts = [f"epoch {line['epoch'] + 1}", f"loss {line['train/loss']:.4f} ({', '.join(parts)})"]
    if "validation/loss" in line:
        facts.append(f"validation {line['validation/loss']:.4f}")
    if "time/mfu" in line:
        facts.append(f"mfu {100 * line['time/mfu']:.0f}%")
    return "  ".join(facts)


class FollowMetrics:
    """Prints progress of a training, and tells trackers, from the metrics file it appends to."""

    def __init__(self, file: Path, label: str, total: int, trackers: Trackers) -> None:
        self.file, self.trackers = file, trackers
        self.inode = self.offset = 0
        self.stop = threading.Event()
        self.seen: dict[str, Any] = {}  # the last value of everything
        self.progress = Progress(label, total)
        lines = self._new_lines()
        self.progress.done = len(lines)
        self.trackers.log(lines)
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "FollowMetrics":
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop.set()
        self.thread.join()
        self.progress.end()
        self.trackers.close()

    def _follow(self) -> None:
        while not self.stop.wait(1.0):
            self._show()
        self._show()

    def _show(self) -> None:
        if lines := self._new_lines():
            for line in lines:
                self.seen |= line
            self.trackers.log(lines)
            tokens = sum(line["train/unique_tokens"] for line in lines)
            self.progress.advance(len(lines), tokens, step_facts(self.seen))

    def _new_lines(self) -> list[dict[str, Any]]:
        """Lines written whole since the last call; all of the file that a restart has put in its
        place, with the steps after its checkpoint cut off."""
        if not self.file.exists():
            return []
        if self.file.stat().st_ino != self.inode:
            self.inode = self.file.stat().st_ino
            self.offset = self.progress.done = 0
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self.offset += len(data)
        return [json.loads(line) for line in data.splitlines()]
