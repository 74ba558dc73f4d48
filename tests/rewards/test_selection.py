"""Which completions of a group are used, and which groups."""

import subprocess
import sys

import pytest

from fastdistill_ray.rewards.selection import SelectionKnobs, drop_reason, select_completions


def test_select_dedup_keeps_first_of_each_text() -> None:
    assert select_completions(["a", "b", "a", "c", "b"], SelectionKnobs(dedup=True), "p") == [
        0,
        1,
        3,
    ]
    assert select_completions(["a", "a"], SelectionKnobs(), "p") == [0, 1]


def test_select_group_size_first_and_random_are_stable() -> None:
    texts = [str(i) for i in range(8)]
    first = SelectionKnobs(group_size=3, group_select="first")
    assert select_completions(texts, first, "p") == [0, 1, 2]
    knobs = SelectionKnobs(group_size=3)
    chosen = {tuple(select_completions(texts, knobs, f"p{i}")) for i in range(200)}
    assert all(len(set(one)) == 3 and list(one) == sorted(one) for one in chosen)
    assert len(chosen) > 40  # of 56
    assert select_completions(texts[:2], knobs, "p") == [0, 1]


def test_select_random_is_independent_of_hash_seed() -> None:
    script = (
        "from fastdistill_ray.rewards.selection import *\n"
        "print([select_completions(list('abcdefgh'), SelectionKnobs(group_size=3), f'p{i}')"
        " for i in range(20)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("is_correct", "rewards", "knobs", "reason"),
    [
        ([True, False], [1, 0], SelectionKnobs(), ""),
        ([True, True], [1, 1], SelectionKnobs(), ""),
        ([False, False], [1, 0], SelectionKnobs(), "too_few_correct"),
        ([True], [1], SelectionKnobs(), "too_few_completions"),
        ([True, True], [1, 0], SelectionKnobs(max_correct=1), "too_many_correct"),
        ([True, True], [0.1, 0.1], SelectionKnobs(drop_zero_variance=True), "zero_variance"),
        ([False, False], [1, 0], SelectionKnobs(min_correct=0), ""),
    ],
)
def test_drop_reason_by_rule(
    is_correct: list[bool], rewards: list[float], knobs: SelectionKnobs, reason: str
) -> None:
    assert drop_reason(is_correct, rewards, knobs) == reason
