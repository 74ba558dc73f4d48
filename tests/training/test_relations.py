"""Relations of tokens: the papers' numbers, and the gradients of what is computed twice."""

import numpy as np
import pytest
import torch

from fastdistill_ray.objectives import TinyBert
from fastdistill_ray.objectives.projected import FitNets
from fastdistill_ray.training.packing import (
    Segment,
    TrainCompletion,
    TrainGroup,
    packed_batch,
    plain_batch,
)
from fastdistill_ray.training.relations import RelationKl, common_texts, related
from fastdistill_ray.training.taps import attention_of, split


def tensor(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_relation_of_two_tokens_is_the_papers_number():
    """Both tokens see both: each is the last one once."""
    teacher, student = tensor([[1, 0, 0, 1], [0, 1, 1, 0]]), tensor([[1, 1], [1, 0]])
    text = Segment(1, 3, 0, 1)
    rows = [
        related([split(student[order], 2)], [split(teacher[order], 2)], [(text, text)])[0][
            -1
        ].item()
        for order in ([0, 1], [1, 0])
    ]
    assert np.mean(rows) == pytest.approx(0.0463880456, abs=1e-10)


def test_attention_and_relation_of_values_are_the_papers_numbers():
    attention = {"teacher": tensor([[0.7, 0.3], [0.4, 0.6]]), "student": tensor([[0.5, 0.5]] * 2)}
    values = {"teacher": tensor([[1, 0], [0, 1]]), "student": tensor([[1, 1, 0], [0, 1, 1]])}
    found, text = [], Segment(1, 3, 0, 1)
    for order in ([0, 1], [1, 0]):
        sides = [  # keys are the tokens' own numbers, so that products are the logarithms
            attention_of(
                query=attention[who].log()[order][None, None],
                key=torch.eye(2, dtype=torch.float64)[order][None, None],
                value=values[who][order][None, None],
                scaling=1.0,
            )
            for who in ("student", "teacher")
        ]
        found.append([one[-1].item() for one in related(*sides, [(text, text)])])
    assert np.mean(found, axis=0) == pytest.approx([0.0512091960, 0.0018884363], abs=1e-10)


def test_distances_behind_a_bridge_are_the_papers_numbers():
    student, teacher = tensor([[1, 2, 2]]), tensor([[2, 1, 2]])
    knobs = {"layers": [(0, 0)], "beta": 1.0}
    assert FitNets(**knobs).distance(student, teacher).tolist() == [1.0]
    bridge = tensor([[1, 0, 1], [0, 1, 1]])
    student, teacher = tensor([[1, 0], [0, 2]]) @ bridge, tensor([[1, 1, 0], [0, 1, 3]])
    found = TinyBert(**knobs).distance(student, teacher).mean().item()
    assert found == pytest.approx(0.6666667, abs=1e-7)


def test_gradients_are_those_of_the_value_for_queries_and_keys():
    torch.manual_seed(0)
    query, key = torch.randn(2, 12, 8, dtype=torch.float64, requires_grad=True)
    others = torch.randn(2, 12, 4, dtype=torch.float64)
    texts = [
        (Segment(3, 6, 1, 3), Segment(5, 8, 3, 5)),
        (Segment(6, 10, 0, 3), Segment(8, 12, 0, 3)),
        (Segment(10, 11, 2, 3), Segment(4, 5, 3, 4)),  # of one token
    ]

    def values(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return RelationKl.apply(query, key, *others, texts, 2, (0.5, 0.7))

    assert torch.autograd.gradcheck(values, (query, key))
    assert torch.autograd.gradcheck(lambda one: values(one, one), (query,))


def test_relation_knows_no_order_of_heads_but_those_it_makes():
    """With one head, any order of the numbers is the same relation; with several it is another."""
    torch.manual_seed(0)
    own, other = torch.randn(2, 6, 8, dtype=torch.float64)
    texts = [(Segment(2, 6, 0, 2), Segment(2, 6, 0, 2))]
    turned = own[:, torch.randperm(8)]
    for num_heads, is_same in ((1, True), (4, False)):
        one, two = (
            related([split(x, num_heads)], [split(other, num_heads)], texts)[0]
            for x in (own, turned)
        )
        assert torch.allclose(one, two) == is_same


def test_texts_begin_where_both_prompts_begin_to_end_alike_in_both_layouts():
    own, its = [1, 2, 3, 4], [9, 9, 3, 4]
    apart, same = [5, 6], [8, 6]
    completions = [TrainCompletion(np.arange(20, 20 + n), 1.0, 0.0) for n in (3, 1)]
    pairs = [(own, its), (apart, [1, 2, 3]), (same, same)]
    groups = [
        [TrainGroup("", np.array(pair[side]), completions) for pair in pairs] for side in (0, 1)
    ]
    for layout in (
        lambda side: packed_batch(groups[side], 8).inputs,
        lambda side: plain_batch(groups[side], mask_prompt=True).inputs,
    ):
        inputs = layout(0), layout(1)
        texts = common_texts(*inputs)
        assert len(texts) == 6
        for place, pair in enumerate(texts):
            sizes = [one.prompt_end - one.prompt_start for one in pair]
            assert sizes == [[2, 1, 2][place // 2]] * 2
            for side, one in enumerate(pair):
                ids = inputs[side].input_ids.ravel()
                prompt = pairs[place // 2][side]
                assert ids[one.prompt_start : one.prompt_end].tolist() == prompt[-sizes[0] :]
                expected = completions[place % 2].token_ids
                assert np.array_equal(ids[one.start : one.end], expected)
