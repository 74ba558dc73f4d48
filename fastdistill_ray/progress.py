"""Progress a person can read in a terminal and in `ray job logs`: one line every few seconds."""

import json
import threading
import time
from pathlib import Path
from types import TracebackType

BAR_WIDTH = 24
SECONDS_BETWEEN_LINES = 5.0


def bar_line(label: str, done: int, total: int, seconds: float, facts: str) -> str:
    """`label  [####....] 12/50  facts  left 0:45`."""
    share = done / total if total else 1.0
    bar = "#" * round(BAR_WIDTH * share)
    left = seconds * (total - done) / done if done else 0.0
    remaining = f"left {int(left) // 60}:{int(left) % 60:02d}" if done else "left -:--"
    return f"{label:<22} [{bar:.<{BAR_WIDTH}}] {done}/{total}  {facts}  {remaining}"


class Progress:
    """Counts what is done and prints a line now and then; the last line is always printed."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self.already = done
        self.start = time.monotonic()
        self.printed = self.start

    def advance(self, amount: int, facts: str) -> None:
        self.done += amount
        now = time.monotonic()
        if self.done >= self.total or now - self.printed >= SECONDS_BETWEEN_LINES:
            self.printed = now
            self._print(facts, now - self.start)

    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def _print(self, facts: str, seconds: float) -> None:
        new = max(self.done - self.already, 1)
        whole = seconds * self.done / new  # what all of it would have taken at this pace
        print(bar_line(self.label, self.done, self.total, whole, facts), flush=True)  # noqa: T201


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
                f"epoch {last['epoch'] + 1}  loss {last['train/loss']:.4f}  "
                f"{last['train/tokens_per_second']:.0f} tokens/s",
            )

    def _lines(self) -> list[str]:
        if not self.file.exists():
            return []
        text = self.file.read_text(encoding="utf-8")
        return text[: text.rfind("\n") + 1].splitlines()
