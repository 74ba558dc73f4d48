"""Progress a person can read in a terminal and in `ray job logs`: one line every few seconds."""

import json
import threading
import time
from pathlib import Path
from types import TracebackType

BAR_WIDTH = 24
SECONDS_BETWEEN_LINES = 5.0


def bar_line(label: str, done: int, total: int, left: float | None, facts: str) -> str:
    """`label  [####....] 12/50  facts  left 0:45`; `left` in seconds, None where unknown."""
    share = done / total if total else 1.0
    bar = "#" * round(BAR_WIDTH * share)
    remaining = "" if left is None else f"left {int(left) // 60}:{int(left) % 60:02d}"
    return f"{label:<22} [{bar:.<{BAR_WIDTH}}] {done}/{total}  {facts}  {remaining}"


class Progress:
    """Counts what is done and prints a line now and then; the last line is always printed."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self.already = done
        self.start = 0.0  # of the first advance: an engine's start-up is not its pace
        self.printed = 0.0
        self.tokens = 0

    def advance(self, amount: int, tokens: int, facts: str = "") -> None:
        """`amount` more is done, made of `tokens`; `facts` stand before the pace."""
        now = time.monotonic()
        if not self.start:
            self.start, self.already = now, self.done + amount
        else:
            self.tokens += tokens
        self.done += amount
        if self.done >= self.total or now - self.printed >= SECONDS_BETWEEN_LINES:
            self.printed = now
            seconds = now - self.start
            rate = f"{self.tokens / seconds:.0f} tokens/s" if self.tokens else ""
            new = self.done - self.already
            left = seconds / new * (self.total - self.done) if new else None
            facts = "  ".join(filter(None, [facts, rate]))
            print(bar_line(self.label, self.done, self.total, left, facts), flush=True)  # noqa: T201


class FollowMetrics:
    """Prints training progress from the metrics file another process appends to."""

    def __init__(self, file: Path, label: str, total: int) -> None:
        self.file = file
        self.stop = threading.Event()
        self.progress = Progress(label, total, done=len(self._lines()))
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

    def _follow(self) -> None:
        while not self.stop.wait(1.0):
            self._show()
        self._show()

    def _show(self) -> None:
        lines = self._lines()
        new = len(lines) - self.progress.done
        if new > 0:
            last = json.loads(lines[-1])
            self.progress.advance(
                new,
                sum(json.loads(line)["train/unique_tokens"] for line in lines[-new:]),
                f"epoch {last['epoch'] + 1}  loss {last['train/loss']:.4f}",
            )

    def _lines(self) -> list[str]:
        if not self.file.exists():
            return []
        text = self.file.read_text(encoding="utf-8")
        return text[: text.rfind("\n") + 1].splitlines()
