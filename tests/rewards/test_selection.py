"""Which completions of a group are used, and which groups."""

import itertools
import json
import subprocess
import sys

import pytest
from support.groups import make_completion, make_group

from fastdistill_ray.rewards import RewardKnobs, Scorer
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import (
    Judging,
    SelectionKnobs,
    drop_reason,
    is_in,
    judge_rows,
    select,
    select_completions,
    with_correct,
)
from fastdistill_ray.verifiers import Judge, VerifierKnobs


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


def test_with_correct_of_every_small_group_and_choice() -> None:
    """All groups of 5, choices of 3: enough correct ones where there are, as few changes as can
    be, and no choice is touched that has them already."""
    for verdicts in itertools.product([True, False], repeat=5):
        correct = [i for i in range(5) if verdicts[i]]
        for chosen, enough in itertools.product(itertools.combinations(range(5), 3), (1, 2, 3)):
            found = with_correct(list(chosen), correct, enough)
            before = len(set(chosen) & set(correct))
            wanted = max(before, min(enough, len(correct)))
            assert len(set(found) & set(correct)) == wanted
            assert len(set(found)) == 3 and found == sorted(found)
            assert len(set(found) - set(chosen)) == wanted - before


def test_group_drawn_until_one_is_correct_keeps_it_when_cut_down() -> None:
    """The last completion drawn is the correct one, and chance leaves it out of 3 of 16 mostly."""
    knobs = SelectionKnobs(group_size=3)
    lost = 0
    for number in range(60):
        completions = [make_completion(str(i)) for i in range(15)]
        completions.append(make_completion("right", verdict="correct", reward=1.0))
        plain = make_group(f"p{number}", completions)
        drawn = {**plain, "sampling": json.dumps({"n": 4, "max_n": 16, "enough": 1})}
        kept, left = (select(row, knobs, AdvantageKnobs()) for row in (drawn, plain))
        chosen = [i for i, one in enumerate(kept["completions"]) if one["is_selected"]]
        assert 15 in chosen and len(chosen) == 3
        assert kept["dropped"] == ""
        lost += left["dropped"] == "too_few_correct"
        if not left["dropped"]:
            assert kept["completions"] == left["completions"], "the seeded choice stands"
    assert 30 < lost < 60


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


def test_completion_that_could_not_be_decided_in_time_is_neither_right_nor_wrong() -> None:
    """It has no reward, so it moves no advantage of the others and is not trained on."""
    bomb = r"\boxed{\sin((x+y+z+1)^{2999})}"
    texts = [r"\boxed{(x+y+z+2)^{2998}}", r"\boxed{7}", bomb]
    completions = [make_completion(text, seed=k) for k, text in enumerate(texts)]
    row = make_group("p", completions, kind="math", reference="(x+y+z+2)^{2998}")
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs(min_correct=0))
    with Judge(VerifierKnobs()) as judge, Scorer(judging.reward) as scorer:
        (judged,) = judge_rows([row], judging, judge, scorer)
        (without,) = judge_rows([{**row, "completions": completions[:2]}], judging, judge, scorer)
    *others, undecided = judged["completions"]
    assert undecided["verdict"] == "timeout"
    assert (undecided["reward"], undecided["advantage"]) == (None, None)
    assert undecided["is_selected"] is False
    assert [one["advantage"] for one in others] == [
        one["advantage"] for one in without["completions"]
    ]


def test_parts_of_the_problems_share_none_and_a_group_of_another_part_is_not_kept() -> None:
    ids = [f"task/{i}" for i in range(1000)]
    cuts = [0.0, 0.3, 0.5, 1.0]
    parts = [{one for one in ids if is_in(ends, one)} for ends in itertools.pairwise(cuts)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1000
    assert [round(len(part), -2) for part in parts] == [300, 200, 500]
    group = make_group(next(iter(parts[0])), [make_completion() for _ in range(2)])
    for ends, reason in (((0.0, 0.3), ""), ((0.5, 1.0), "not_in_selection_problems")):
        row = select(group, SelectionKnobs(problems=ends, min_correct=0), AdvantageKnobs())
        assert row["dropped"] == reason
