"""Steps of a training whose student writes: each is handed out before the next one's texts can be
written, mixed with teachers' groups where the plan says so, with the probabilities of its draws."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.signals import GroupSignals, arrays_of
from fastdistill_ray.groups.steps import DRAWN, Rounds, StepPlan, rank_rows, steps
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.journal import StepJournal, is_as_planned


def plan_of(folder: Path, num_steps: int, mixed: Path | None = None, **fields) -> StepPlan:
    knobs = {"is_logged": False, "num_mixed": 1 if mixed else 0} | fields
    rounds = Rounds(num_steps, 2, str(mixed or ""), **knobs)
    return StepPlan(str(folder), 2, 1, None, 3, True, rounds=rounds)


def own(*numbers: int) -> list[dict]:
    return [make_group(f"own {n}", [make_completion()], round=n // 2) for n in numbers]


def test_step_does_not_wait_for_the_texts_of_the_next_one(tmp_path):
    write_store(tmp_path, own(0, 1))
    first = next(steps(plan_of(tmp_path, 3)))
    assert [one.key for one in first.locations] == ["own 0", "own 1"] and not first.ends_epoch
    write_store(tmp_path, own(2, 3, 4, 5))
    found = list(steps(plan_of(tmp_path, 3), first=1))
    assert [one.step for one in found] == [1, 2]
    assert [one.ends_epoch for one in found] == [False, True]


def test_last_step_is_short_where_texts_were_set_aside(tmp_path):
    write_store(tmp_path, own(0, 1, 2), is_complete=True)
    found = list(steps(plan_of(tmp_path, 3)))
    assert [len(one.locations) for one in found] == [2, 1]
    assert found[-1].ends_epoch


def test_each_step_has_its_share_of_the_teachers_groups_in_passes_of_their_own_order(tmp_path):
    mixed = tmp_path / "mixed"
    write_store(tmp_path / "own", own(*range(10)), is_complete=True)
    write_store(mixed, [make_group(n, [make_completion()]) for n in "abc"], is_complete=True)
    plan = plan_of(tmp_path / "own", 5, mixed)
    rows = list(rank_rows(plan, 0, 1))
    taken = [row["group_ids"][2] for row in rows]
    assert sorted(taken[:3]) == ["a", "b", "c"] and taken[3:] != taken[:2]
    assert [row["num_groups"] for row in rows] == [3] * 5
    assert [group["round"] for group in rows[1]["groups"]] == [1, 1, None]
    assert [row["group_ids"] for row in rank_rows(plan, 0, 1, first=3)] == [
        row["group_ids"] for row in rows[3:]
    ], "a restart sees the same steps"
    both = [list(rank_rows(plan, rank, 2)) for rank in (0, 1)]
    for row, first, second in zip(rows, *both, strict=True):
        shares = [[one["problem_id"] for one in part["groups"]] for part in (first, second)]
        in_turn = itertools.chain(*itertools.zip_longest(*shares))
        assert [key for key in in_turn if key] == row["group_ids"]


def test_probabilities_of_the_draws_come_with_the_tokens_they_are_of(tmp_path):
    random = np.random.default_rng(0)
    texts = [random.integers(0, 50, n).tolist() for n in (4, 1, 3)]
    values = random.uniform(-9, 0, 8).astype(np.float32)
    drawn = np.concatenate(texts)
    group = make_group(
        "g",
        [make_completion(token_ids=ids) for ids in texts],
        logprob_ids=np.stack([drawn, random.integers(0, 50, 8)], 1).ravel().tolist(),
        logprobs=np.stack([values, np.zeros(8)], 1).ravel().tolist(),
    )
    write_store(tmp_path, [group, group | {"problem_id": "h"}], is_complete=True)
    plan = plan_of(tmp_path, 1, is_logged=True)
    assert plan.signal == DRAWN
    (row,) = rank_rows(plan, 0, 1)
    signals = GroupSignals(arrays_of(row["signals"][0]), DRAWN)
    for place, (ids, part) in enumerate(zip(texts, np.split(values, [4, 5]), strict=True)):
        assert np.array_equal(signals.of(place, ids).values[:, 0], part)
    with pytest.raises(UserError, match="of other tokens than"):
        signals.of(0, [*texts[0], 1])


def test_steps_that_were_done_are_found_again_with_their_mixed_groups(tmp_path):
    write_store(tmp_path / "own", own(*range(4)), is_complete=True)
    write_store(tmp_path / "mixed", [make_group("a", [make_completion()])], is_complete=True)
    plan = plan_of(tmp_path / "own", 2, tmp_path / "mixed")
    journal = StepJournal(Place(tmp_path), 0)
    for row in rank_rows(plan, 0, 1):
        journal.add(row, {})
    journal.sync()
    assert is_as_planned(Place(tmp_path), plan, 2)
    alone = plan_of(tmp_path / "own", 2, tmp_path / "mixed", num_mixed=0)
    assert not is_as_planned(Place(tmp_path), alone, 2)
