"""The student's texts, round by round: each is asked of the student as the round begins, judged and
committed; a gate holds back what a student that is still trained is to write.
"""

import threading
from functools import partial
from typing import Any, NamedTuple

import ray

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.generation.completions import to_write
from fastdistill_ray.generation.dispenser import ENDED
from fastdistill_ray.generation.knobs import EngineKnobs, EngineSpec, SamplingKnobs
from fastdistill_ray.groups.accounting import check_failures, count_verdicts
from fastdistill_ray.groups.aside import forget_aside, set_aside
from fastdistill_ray.groups.ask import ask
from fastdistill_ray.groups.curation import GroupMaker
from fastdistill_ray.groups.log import Commit
from fastdistill_ray.groups.shares import Shares
from fastdistill_ray.groups.store import FAILED, Store
from fastdistill_ray.progress import Progress
from fastdistill_ray.rewards.selection import Judging
from fastdistill_ray.rounds.requests import RoundRequests
from fastdistill_ray.run_files import MANIFEST, write_json
from fastdistill_ray.storage.place import Place


class Writing(NamedTuple):
    """Who writes, how, and where its actors run."""

    engine: EngineKnobs
    sampling: SamplingKnobs
    judging: Judging
    pool: PoolKnobs
    judges: PoolKnobs
    stall_minutes: float
    num_own: int  # groups of a step, at most
    shares: Shares | None  # where it depends on the training how many they are


GOES_ON = (
    "raise reward.max_failed_share and start again, and the training goes on; with a mended reward "
    "it begins anew"
)


class Closed(Exception):
    """The training that the texts are for has ended."""


def write_rounds(
    writing: Writing, requests: RoundRequests, out: Place, closed: threading.Event
) -> None:
    """Groups of all requests that are not committed yet, in the order of the rounds.

    Closed where `closed` is set before all are there.
    """
    store = Store(out)
    (out / FAILED).unlink()
    store.begin()
    forget_aside(store)
    judging = writing.judging
    progress = Progress("write rounds", len(requests), done=len(set(store.keys())))
    left = len(requests) + 1
    while len(missing := requests.without({*store.keys(), *set_aside(store)})):
        before, left = left, len(missing)
        assert left < before, "what was asked is not in the store"
        spec = EngineSpec(
            requests.policies.model, writing.engine, writing.sampling, judging.reward.verifier
        )
        gate = Gate(writing, requests, store, closed)
        try:
            ask(
                [to_write(missing, spec, writing.pool)],
                partial(GroupMaker, out, judging, writing.sampling),
                {"": store},
                judges=writing.judges,
                rows_per_file=1,
                max_aside=writing.sampling.max_set_aside,
                stall_minutes=writing.stall_minutes,
                progress=progress,
                note=gate.note,
                gate=gate,
            )
        except Exception:
            if closed.is_set():
                raise Closed from None
            raise
    check_failures(count_verdicts(store), judging.reward.max_failed_share, store, GOES_ON)
    write_json(out / MANIFEST, {"requests": len(requests)})


class Gate:
    """Tells a dispenser how many of the missing requests may be asked by now: those of the rounds
    up to the newest student's, and as many of later ones as it may be behind; where there are
    shares, as many as these say. A request that makes no group of its round is made up for by the
    next one."""

    def __init__(
        self,
        writing: Writing,
        requests: RoundRequests,
        store: Store,
        closed: threading.Event,
    ) -> None:
        self.policies, self.store, self.closed = requests.policies, store, closed
        self.per_round = writing.num_own * requests.policies.steps
        self.shares = writing.shares
        self.verdicts = count_verdicts(store)
        self.max_failed_share = writing.judging.reward.max_failed_share
        self.wanted = self.num_rounds = 0  # groups, and the rounds that they are of
        commits = list(store.commits())
        self.committed = sum(len(commit.keys) for commit in commits) + len(set_aside(store))
        self.lost = sum(len(commit.keys) - commit.dropped.count("") for commit in commits)
        self.lost += len(set_aside(store))

    def note(self, commit: Commit) -> str:
        """UserError where too many completions cannot be judged: before they are trained on."""
        self.verdicts.update(commit.verdicts)
        check_failures(self.verdicts, self.max_failed_share, self.store, GOES_ON)
        self.lost += len(commit.keys) - commit.dropped.count("")
        return f"round {self.policies.newest().version}"

    def __call__(self, dispenser: Any) -> None:
        if self.closed.is_set():
            dispenser.abandon.remote(ENDED)
            return
        newest = self.policies.newest().version
        while self.shares and self.num_rounds <= newest:
            self.wanted += self.shares.num_new(self.num_rounds, self.wanted)
            self.num_rounds += 1
        if not self.shares:
            self.wanted = (newest + 1 + self.policies.staleness) * self.per_round
        status: Any = ray.get(dispenser.status.remote())
        lost = self.lost + len(status.aside)
        dispenser.allow.remote(self.wanted + lost - self.committed)
