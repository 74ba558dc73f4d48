"""How busy the decoding slots of many engines are while requests last, in simulated time.

    python -m benchmarks.slots [--json FILE] [--actors 1 8 64 256] [--requests-each 192]

Requests take lognormal times (sigma 0.8, mean 30 s). Engines have 32 slots each. `pull` is what the
package does: its own Dispenser, in flight and interval, every actor taking a number as it has room.
`tasks` is what Ray Data's own tasks do: fixed numbers of requests per task, at most 256 tasks over
all actors, an actor with a new task only when one of its own is over. Printed: the share of
slot-seconds that are busy until 80 % of the work is done and until all is, the most requests in
flight over the slots, and the CPU time that the dispenser takes for a request.
"""

import heapq
import time
from typing import Any

import numpy as np

from benchmarks.harness import make_parser, print_rows, write_json
from fastdistill_ray.generation.completions import (
    BUNDLES_PER_SECOND,
    IN_FLIGHT_FACTOR,
    SHORTEST_INTERVAL,
)
from fastdistill_ray.generation.dispenser import Dispenser

SLOTS = 32
TASKS_AT_ONCE = 256


class Engine:
    """Decodes SLOTS requests at once, the others wait in its queue."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, float]] = []
        self.ends: list[tuple[float, int]] = []
        self.spans: list[tuple[float, float]] = []  # of a slot that is busy

    def add(self, now: float, number: int, seconds: float) -> None:
        self.waiting.append((number, seconds))
        self.fill(now)

    def fill(self, now: float) -> None:
        while self.waiting and len(self.ends) < SLOTS:
            number, seconds = self.waiting.pop(0)
            heapq.heappush(self.ends, (now + seconds, number))
            self.spans.append((now, now + seconds))

    def finished(self, now: float) -> list[int]:
        """Requests that have ended by then; their slots are filled as each ends."""
        done = []
        while self.ends and self.ends[0][0] <= now:
            end, number = heapq.heappop(self.ends)
            done.append(number)
            self.fill(end)
        return done


def lengths(count: int) -> np.ndarray:
    draws = np.random.default_rng(0).lognormal(0.0, 0.8, count)
    return 30.0 * draws / draws.mean()


def pull(actors: int, seconds: np.ndarray) -> dict[str, Any]:
    dispenser, used = Dispenser(len(seconds), actors, 0, lambda: 0.0), 0.0
    engines = [Engine() for _ in range(actors)]
    running = [0] * actors
    interval = max(SHORTEST_INTERVAL, actors / BUNDLES_PER_SECOND)
    looks = [(0.0, actor) for actor in range(actors)]
    most = 0
    while looks:
        now, actor = heapq.heappop(looks)
        done = engines[actor].finished(now)
        running[actor] -= len(done)
        begin = time.process_time()
        want = IN_FLIGHT_FACTOR * SLOTS - running[actor]
        _, numbers, _ = dispenser.take(str(actor), done, {}, want)
        used += time.process_time() - begin
        for number in numbers:
            engines[actor].add(now, number, seconds[number])
        running[actor] += len(numbers)
        most = max(most, sum(running))
        if engines[actor].ends:
            heapq.heappush(looks, (max(now + interval, engines[actor].ends[0][0]), actor))
    return {**busy(engines), "in_flight": most / (actors * SLOTS), "ms": used}


def tasks(actors: int, seconds: np.ndarray) -> dict[str, Any]:
    in_flight = 2 * SLOTS
    per_task = max(1, in_flight * actors // TASKS_AT_ONCE)
    at_once = -(-in_flight // per_task)
    engines = [Engine() for _ in range(actors)]
    left: dict[int, int] = {}  # task -> requests of it that run
    tasks_of = [0] * actors
    fresh = most = running = 0
    looks = [(0.0, actor) for actor in range(actors)]
    while looks:
        now, actor = heapq.heappop(looks)
        for number in engines[actor].finished(now):
            running -= 1
            left[number // per_task] -= 1
            if not left[number // per_task]:
                tasks_of[actor] -= 1
        while tasks_of[actor] < at_once and fresh < len(seconds):
            numbers = range(fresh, min(fresh + per_task, len(seconds)))
            fresh = numbers.stop
            left[numbers.start // per_task] = len(numbers)
            tasks_of[actor] += 1
            running += len(numbers)
            for number in numbers:
                engines[actor].add(now, number, seconds[number])
        most = max(most, running)
        if engines[actor].ends:
            heapq.heappush(looks, (engines[actor].ends[0][0], actor))
    return {**busy(engines), "in_flight": most / (actors * SLOTS), "ms": 0.0}


def busy(engines: list[Engine]) -> dict[str, float]:
    """Shares of slot-seconds that are busy."""
    starts, ends = np.array([span for engine in engines for span in engine.spans]).T
    until = {"until_80": np.sort(ends)[int(0.8 * len(ends))], "until_end": ends.max()}
    slots = len(engines) * SLOTS
    return {
        name: float(np.clip(np.minimum(ends, at) - starts, 0, None).sum() / (slots * at))
        for name, at in until.items()
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 8, 64, 256])
    parser.add_argument("--requests-each", type=int, default=192, help="of an actor")
    arguments = parser.parse_args()
    rows = []
    for actors in arguments.actors:
        seconds = lengths(actors * arguments.requests_each)
        for name, policy in (("pull", pull), ("tasks", tasks)):
            found = policy(actors, seconds)
            rows.append(
                {
                    "actors": actors,
                    "policy": name,
                    "busy_until_80": round(found["until_80"], 3),
                    "busy_until_end": round(found["until_end"], 3),
                    "in_flight_over_slots": round(found["in_flight"], 2),
                    "dispenser_ms_per_request": round(1000 * found["ms"] / len(seconds), 4),
                }
            )
    print_rows(rows)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
