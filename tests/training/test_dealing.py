"""How a step is dealt to ranks: nothing lost or split further than completions, as good as an
exhaustive search allows, and ranks that are busy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.dealing import CASES, busy_share, lognormal_groups
from fastdistill_ray.training.dealing import Work, deal
from fastdistill_ray.training.packing import (
    TrainCompletion,
    TrainGroup,
    num_packed_tokens,
    num_padded_tokens,
)

TOKENS = Work(token=1.0, target=0.0, pair=0.0)  # work is the number of computed tokens


def make_group(name: str, prompt: int, lengths: list[int]) -> TrainGroup:
    completions = [TrainCompletion(np.full(n, k), 1.0, 0.0) for k, n in enumerate(lengths)]
    return TrainGroup(name, np.zeros(prompt, int), completions)


GROUPS = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 30), min_size=1, max_size=5)), max_size=9
)


@given(GROUPS, st.integers(1, 5), st.integers(1, 60), st.booleans())
def test_every_completion_is_dealt_once_and_ranks_have_as_many_micro_batches(
    shapes, world_size, budget, shared_prompt
):
    groups = [make_group(str(i), *shape) for i, shape in enumerate(shapes)]
    options = {"micro_batch_tokens": budget, "shared_prompt": shared_prompt, "work": TOKENS}
    ranks = deal(groups, world_size=world_size, **options)
    assert len(ranks) == world_size and len({len(batches) for batches in ranks}) == 1
    rounds = list(zip(*ranks, strict=True))
    assert len(rounds) == 1 or all(any(batches) for batches in rounds), "a round is of no use"
    size = num_packed_tokens if shared_prompt else num_padded_tokens
    dealt = []
    for members in itertools.chain(*ranks):
        one = len(members) == 1 and len(members[0].completions) == 1
        assert not members or one or size(members) <= budget
        for part in members:
            for place, completion in enumerate(part.completions, part.first):
                dealt.append((part.group_id, place))
                assert completion is groups[int(part.group_id)].completions[place]
    assert sorted(dealt) == [
        (group.group_id, place) for group in groups for place in range(len(group.completions))
    ]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=7), st.integers(2, 3), st.sampled_from([0, 1])
)
def test_fullest_rank_has_at_most_four_thirds_of_the_best_of_all_deals(lengths, world_size, prompt):
    """Graham's bound of the rule that the longest comes first; a group of one is never split."""
    groups = [make_group(str(i), prompt, [length]) for i, length in enumerate(lengths)]
    ranks = deal(
        groups, world_size=world_size, micro_batch_tokens=10**6, shared_prompt=True, work=TOKENS
    )
    fullest = max(sum(map(num_packed_tokens, batches)) for batches in ranks)
    best = min(
        max(
            sum(prompt + n for n, at in zip(lengths, places, strict=True) if at == rank)
            for rank in range(world_size)
        )
        for places in itertools.product(range(world_size), repeat=len(lengths))
    )
    assert best <= fullest <= best * (4 / 3 - 1 / (3 * world_size)) + 1e-9


def test_group_that_dominates_is_split_by_completions():
    groups = [make_group("large", 5, [100] * 8), make_group("small", 5, [10] * 8)]
    ranks = deal(groups, world_size=4, micro_batch_tokens=2000, shared_prompt=True, work=TOKENS)
    loads = [sum(map(num_packed_tokens, batches)) for batches in ranks]
    assert max(loads) <= 1.15 * sum(loads) / 4
    assert num_packed_tokens([groups[0]]) > sum(loads) / 2  # one rank had most of it


def test_long_completions_count_by_what_attention_takes_of_them():
    groups = [make_group("long", 1, [100]), *(make_group(f"{i}", 1, [10]) for i in range(30))]
    work = Work(token=1.0, target=0.0, pair=0.1)
    first, second = deal(
        groups, world_size=2, micro_batch_tokens=10**6, shared_prompt=True, work=work
    )
    (long,) = (batches for batches in (first, second) if batches[0][0].group_id == "long")
    assert len(long[0]) < 5  # by tokens it would be 10 of the 30


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shared_prompt", [True, False], ids=["packed", "padded"])
def test_ranks_are_busy_where_completions_allow_it(case, shared_prompt):
    for seed in range(2):
        groups = lognormal_groups(case.groups_per_step, seed)
        found = busy_share(groups, case.world_size, shared_prompt)
        assert found.dealt >= min(0.9, 0.95 * found.most), found
        assert found.dealt > found.by_position
