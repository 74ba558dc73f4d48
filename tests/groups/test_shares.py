"""Updates of which the student writes a share that grows with a loss: DistiLLM's schedule."""

import itertools
import math
import threading
from collections import Counter
from pathlib import Path

import pytest
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.groups.shares import Rise, Shares, record_of
from fastdistill_ray.groups.steps import Rounds, Step, StepPlan, held_out, read_index, steps
from fastdistill_ray.groups.store import FAILED, Store
from fastdistill_ray.storage.place import Place

RISE = Rise(0.1, 0.1)


def shares_of(folder: Path, num_steps: int = 12, steps_per_round: int = 2, size: int = 4) -> Shares:
    return Shares(str(folder), steps_per_round, num_steps, size, 5, RISE)


def test_share_rises_where_the_loss_is_above_the_level_of_the_last_rise():
    """The released code's scheduler on the losses 1.02, 1.15, 1.20, 1.30 after 1.0."""
    share, level, found = 0.0, 1.0, []
    for loss in (1.02, 1.15, 1.20, 1.30):
        share, level = RISE.after(share, level, loss)
        found.append(share)
    assert found == [0.0, 0.1, 0.1, 0.2]
    assert RISE.after(1.0, 1.0, 9.0) == (1.0, 9.0)
    assert RISE.after(0.0, math.inf, 9.0) == (0.0, math.inf), "before any validation"


def test_half_of_the_groups_after_a_quarter_of_the_steps_are_three_eighths_new(tmp_path):
    shares = shares_of(tmp_path, num_steps=40_000, size=2)
    window = range(9_000, 11_000)
    found = Counter(
        source for step in window for source in shares.sources(step, 0.5, has_earlier=True)
    )
    total = sum(found.values())
    assert found["new"] / total == pytest.approx(0.375, abs=0.03)
    assert found["earlier"] / total == pytest.approx(0.125, abs=0.03)
    assert found["teacher"] / total == pytest.approx(0.5, abs=0.03)


def test_texts_are_new_where_there_is_none_of_an_earlier_step(tmp_path):
    shares = shares_of(tmp_path)
    assert shares.sources(11, 1.0, has_earlier=False) == ["new"] * 4
    assert "earlier" in shares.sources(11, 1.0, has_earlier=True)
    assert shares.sources(3, 0.0, has_earlier=True) == ["teacher"] * 4


def test_earlier_texts_are_chosen_without_repeats_while_there_are_enough(tmp_path):
    shares = shares_of(tmp_path)
    assert sorted(shares.earlier(3, 4, 4)) == [0, 1, 2, 3]
    assert len(shares.earlier(3, 2, 4)) == 4
    assert shares.earlier(3, 0, 0) == []


def record(folder: Path, *shares: float) -> None:
    """Of the rounds from 1 on."""
    for number, share in enumerate(shares, 1):
        record_of(Place(folder), number).put(repr(share))


def plan_of(tmp_path: Path, shares: Shares) -> StepPlan:
    rounds = Rounds(shares.num_steps, 4, str(tmp_path / "teachers"), 0, False, shares)
    folder = str(tmp_path / "own")
    return StepPlan(folder, 4, 1, None, 3, True, held_out=0.25, rounds=rounds)


def write_all(tmp_path: Path, shares: Shares, num_own: int) -> None:
    own = [make_group(f"own {i}", [make_completion()], round=0) for i in range(num_own)]
    theirs = [make_group(f"their {i}", [make_completion()]) for i in range(8)]
    write_store(tmp_path / "own", own, is_complete=True)
    write_store(tmp_path / "teachers", theirs, is_complete=True)


def keys_of(found: list[Step]) -> list[list[str]]:
    return [[one.key for one in step.all_locations] for step in found]


def test_each_step_is_made_as_its_rounds_share_says_and_again_after_a_restart(tmp_path):
    shares = shares_of(tmp_path / "policies")
    record(tmp_path / "policies", 0.0, 0.5, 0.5, 1.0, 1.0)
    num_own = 0
    for number in range(6):
        num_own += shares.num_new(number, num_own)
    write_all(tmp_path, shares, num_own)
    found = list(steps(plan_of(tmp_path, shares)))
    keys = keys_of(found)
    assert [step.ends_epoch for step in found] == [False] * 11 + [True]
    assert all(key.startswith("their") for step in keys[:4] for key in step), "share 0"
    assert all(key.startswith("own") for step in keys[8:] for key in step), "share 1"
    seen: list[str] = []
    for number, step in enumerate(keys):
        own = [key for key in step if key.startswith("own")]
        new = [key for key in own if key not in seen]
        assert new == [f"own {i}" for i in range(len(seen), len(seen) + len(new))], "in their order"
        share = [0.0, 0.0, 0.5, 0.5, 1.0, 1.0][number // 2]
        wanted = Counter(shares.sources(number, share, has_earlier=bool(seen)))
        assert (len(new), len(own) - len(new)) == (wanted["new"], wanted["earlier"])
        seen += new
    assert len(seen) == num_own
    own = [key for step in keys for key in step if key.startswith("own")]
    assert len(own) > len(set(own)), "some are of earlier steps"
    assert keys_of(list(steps(plan_of(tmp_path, shares), first=7))) == keys[7:]


def test_held_out_groups_of_teachers_are_in_no_step(tmp_path):
    shares = shares_of(tmp_path / "policies")
    record(tmp_path / "policies", *[0.0] * 5)
    write_all(tmp_path, shares, 0)
    trained = set(itertools.chain(*keys_of(list(steps(plan_of(tmp_path, shares))))))
    keys = read_index(Store(tmp_path / "teachers"))["key"]
    left_out = set(keys.filter(held_out(keys, 0.25, 3)).to_pylist())
    assert len(left_out) == 2 and len(trained) == 6 and not trained & left_out


def test_step_waits_for_the_share_of_its_round_and_ends_where_the_writer_has_failed(tmp_path):
    shares = shares_of(tmp_path / "policies", steps_per_round=1)
    write_all(tmp_path, shares, 0)
    found = steps(plan_of(tmp_path, shares))
    next(found)
    threading.Timer(0.2, record, (tmp_path / "policies", 0.0)).start()
    assert next(found).step == 1
    (tmp_path / "own" / FAILED).write_text("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        next(found)


def test_as_many_texts_may_be_asked_as_the_steps_of_all_rounds_take(tmp_path):
    shares = shares_of(tmp_path)
    record(tmp_path, 0.3, 0.7)
    assert shares.num_new(0, 0) == 0
    totals = [0]
    for step, share in zip(range(6), (0, 0, 0.3, 0.3, 0.7, 0.7), strict=True):
        new = shares.sources(step, share, has_earlier=totals[-1] > 0).count("new")
        totals.append(totals[-1] + new)
    assert shares.num_new(1, 0) == totals[4]
    assert totals[4] + shares.num_new(2, totals[4]) == totals[6] > 0
