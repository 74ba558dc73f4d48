"""The driver's view of a running training: its metrics file, followed."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from fastdistill_ray.background import repeated
from fastdistill_ray.cluster.metrics import show
from fastdistill_ray.progress import Progress, duration
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.trackers import Trackers

logger = logging.getLogger(__name__)


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


LOOK_SECONDS = 1.0
SAY_SECONDS = 15.0  # between lines while no step is done
SHOWN = {  # metric -> where a line of the file has it
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "train/tokens_per_second",
    "held_out_loss": "held_out/loss",
}


@contextlib.contextmanager
def follow_metrics(file: Place, label: str, total: int, trackers: Trackers) -> Iterator[None]:
    """Prints progress of the training of the block, and tells trackers, from the metrics file that
    it appends to."""
    metrics = MetricsFile(file, label, total, trackers)
    try:
        with repeated(metrics.look, LOOK_SECONDS):
            yield
    finally:
        metrics.look()
        metrics.progress.end()
        trackers.close()


class MetricsFile:
    """Read on each look as far as it has grown."""

    def __init__(
        self,
        file: Place,
        label: str,
        total: int,
        trackers: Trackers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file, self.trackers = file, trackers
        self.state, self.offset = (0, 0), 0
        self.start = hashlib.blake2b(b"").digest()  # of what was read
        self.seen: dict[str, Any] = {}  # the last value of everything
        self.progress = Progress(label, total)
        lines = self._new_lines()
        self.progress.done = len(lines)
        self.clock = clock
        self.begun = self.said = clock()
        self.trackers.log(lines)

    def look(self) -> None:
        if lines := self._new_lines():
            for line in lines:
                self.seen |= line
            self.trackers.log(lines)
            tokens = sum(line["train/unique_tokens"] for line in lines)
            self.progress.advance(len(lines), tokens, step_facts(self.seen))
            show(
                self.progress.label,
                {
                    "rows": self.progress.done,
                    "rows_planned": self.progress.total,
                    "tokens": self.progress.all_tokens,
                    **{name: self.seen[key] for name, key in SHOWN.items() if key in self.seen},
                },
            )
        now = self.clock()
        if not self.progress.done and now - self.said > SAY_SECONDS:
            self.said = now
            logger.info(
                "%s: no step is done for %s: its ranks start, load the model, or wait for groups",
                *(self.progress.label, duration(now - self.begun)),
            )

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
