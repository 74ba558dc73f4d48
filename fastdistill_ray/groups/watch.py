"""What a loop that asks engines waits for, said while it waits; where it hangs, noted before it
ends."""

import logging
import time
from typing import Any, cast

import ray
from ray.exceptions import RayError

from fastdistill_ray.cluster.metrics import show
from fastdistill_ray.cluster.objects import full_nodes
from fastdistill_ray.generation.asking import BEAT_SECONDS
from fastdistill_ray.generation.dispenser import ENDED, SHORT_OF_MEMORY, Status
from fastdistill_ray.progress import duration
from fastdistill_ray.run_files import STALL
from fastdistill_ray.storage.place import Place

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
FIRST_SECONDS, SAY_SECONDS = 15.0, 60.0  # of silence before the first line, before others


class Watch:
    """Of the dispensers: `look` says what is waited for while nothing comes back, soon and then
    once a minute, says at once that one has stopped or an engine is asked less, and ends one from
    which nothing has come for `stall_minutes`."""

    def __init__(
        self, dispensers: list[Any], label: str, folder: Place, stall_minutes: float
    ) -> None:
        self.dispensers, self.label, self.folder = dispensers, label, folder
        self.stall_seconds = 60 * stall_minutes
        self.said, self.patience = time.monotonic(), FIRST_SECONDS
        self.told: set[int] = set()
        self.spared: set[tuple[str, int]] = set()

    def look(self) -> None:
        try:
            statuses = ray.get([one.status.remote() for one in self.dispensers])
        except RayError:
            return  # the execution itself will tell
        for place, status in enumerate(statuses):
            self._look(place, status)
        self.show(statuses)
        quiet = min(status.seconds_quiet for status in statuses)
        if quiet > self.patience and time.monotonic() - self.said > self.patience:
            self.said, self.patience = time.monotonic(), SAY_SECONDS
            waiting = "; ".join(map(what_is_waited_for, statuses))
            if full := full_nodes():
                waiting += (
                    f"; Ray's memory for objects is full ({', '.join(full)}), so answers may wait "
                    "for room there or on the disk it spills to"
                )
            logger.info("%s: %s", self.label, waiting)

    def show(self, statuses: list[Status]) -> None:
        """To whoever reads Ray's metrics."""
        show(
            self.label,
            {
                "requests_in_flight": sum(status.num_out for status in statuses),
                "engines": sum(status.num_actors for status in statuses),
                "engine_deaths": sum(status.num_deaths for status in statuses),
                "requests_failed": sum(status.num_failures for status in statuses),
                "requests_set_aside": sum(len(status.aside) for status in statuses),
            },
        )

    def _look(self, place: int, status: Status) -> None:
        if status.stopped not in ("", ENDED) and place not in self.told:
            self.told.add(place)
            logger.error("%s: %s", self.label, status.stopped)
        for actor, share in set(status.shares.items()) - self.spared:
            self.spared.add((actor, share))
            logger.warning(
                "%s: an engine died, %s; it is asked 1 / %d at once of what it has room for",
                *(self.label, SHORT_OF_MEMORY, share),
            )
        is_stalled = status.num_out and status.seconds_quiet > self.stall_seconds
        if is_stalled and not status.is_abandoned:
            evidence = self._dump(self.dispensers[place])
            self.dispensers[place].abandon.remote(
                f"nothing came back for {duration(status.seconds_quiet)} (pools.stall_minutes); "
                f"where each worker is: {evidence}"
            )

    def _dump(self, dispenser: Any) -> Place:
        dispenser.want_dumps.remote()
        time.sleep(3 * BEAT_SECONDS)
        dumps: dict[str, str] = cast(Any, ray.get(dispenser.get_dumps.remote()))
        file = self.folder / f"{STALL}{time.strftime('%Y%m%dT%H%M%S')}.txt"
        file.put("\n\n".join(f"actor {actor}\n{text}" for actor, text in dumps.items()))
        return file


def what_is_waited_for(status: Status) -> str:
    """A few words."""
    if not status.num_actors:
        if status.num_loading:
            engines = "an engine" if status.num_loading == 1 else f"{status.num_loading} engines"
            return f"waiting for {engines} to load the model"
        free = ray.available_resources()
        parts = [f"{name} {free.get(name, 0):g}" for name in ("CPU", "GPU")]
        return (
            "waiting for Ray to place a worker (`pools` says what it asks for); free in the "
            f"cluster: {', '.join(parts)}"
        )
    deaths = f", {status.num_deaths} engines died" if status.num_deaths else ""
    engines = "1 engine" if status.num_actors == 1 else f"{status.num_actors} engines"
    troubles = "; asked again and again: ".join(["", *status.troubles[:2]])
    return (
        f"waiting for {status.num_out} requests at {engines}, nothing came back "
        f"for {duration(status.seconds_quiet)}{deaths}{troubles}"
    )
