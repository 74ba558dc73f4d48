"""The driver's view of a running training: its metrics file, followed."""

import hashlib
import json
import threading
from types import TracebackType
from typing import Any

from fastdistill_ray.progress import Progress
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.trackers import Trackers


def step_facts(line: dict[str, float]) -> str:
    """`epoch 1  loss 0.4103 (ce 0.3101, contrastive 0.2004)  ...` of a line of metrics.jsonl."""
    terms = {name: value for name, value in line.items() if name.startswith("loss/")}
    parts = [f"{name.removeprefix('loss/')} {value:.4f}" for name, value in terms.items()]
    facts = [f"epoch {line['epoch'] + 1}", f"loss {line['train/loss']:.4f} ({', '.join(parts)})"]
    if "held_out/loss" in line:
        facts.append(f"held out {line['held_out/loss']:.4f}")
    if "time/mfu" in line:
        facts.append(f"mfu {100 * line['time/mfu']:.0f}%")
    return "  ".join(facts)


class FollowMetrics:
    """Prints progress of a training, and tells trackers, from the metrics file it appends to."""

    def __init__(self, file: Place, label: str, total: int, trackers: Trackers) -> None:
        self.file, self.trackers = file, trackers
        self.state, self.offset = (0, 0), 0
        self.start = hashlib.blake2b(b"").digest()  # of what was read
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
        state = self.file.changed()
        if state == self.state:
            return []
        self.state = state
        data = self.file.read_bytes()
        start = hashlib.blake2b(data[: self.offset]).digest()
        if start != self.start:  # a restart has cut steps off
            self.offset = self.progress.done = 0
        new = data[self.offset : data.rfind(b"\n") + 1]
        self.offset += len(new)
        self.start = hashlib.blake2b(data[: self.offset]).digest()
        return [json.loads(line) for line in new.splitlines()]
