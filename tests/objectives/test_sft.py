"""The choice of one completion by hand, and the two ways to divide by length."""

import pytest
import torch

from fastdistill_ray.objectives import Sft
from fastdistill_ray.objectives.contract import LossBatch, Outputs, Scored
from fastdistill_ray.report.conclusion import model_label


@pytest.mark.parametrize(
    ("best_of", "rewards", "is_correct", "num_tokens", "expected"),
    [
        ("reward", [1.0, 3.0, 2.0], [True, True, True], [5, 5, 5], [1]),
        ("reward", [1.0, 3.0, 2.0], [True, False, True], [5, 5, 5], [2]),
        ("reward", [2.0, 2.0, 2.0], [True, True, True], [9, 4, 4], [1]),
        ("first_correct", [1.0, 2.0, 3.0], [False, True, True], [5, 5, 5], [1]),
        ("reward", [1.0, 3.0], [False, False], [5, 5], []),
    ],
)
def test_sft_targets_are_the_best_correct_completion(
    best_of: str,
    rewards: list[float],
    is_correct: list[bool],
    num_tokens: list[int],
    expected: list[int],
) -> None:
    scored = [
        Scored(correct, reward, 0.0, tokens)
        for correct, reward, tokens in zip(is_correct, rewards, num_tokens, strict=True)
    ]
    assert [target.index for target in Sft(best_of=best_of).targets(scored)] == expected


@pytest.mark.parametrize(
    ("on", "is_correct", "expected"),
    [
        ("correct", [True, False, True], [0, 2]),
        ("correct", [False, False, False], []),
        ("all", [True, False, True], [0, 1, 2]),
        ("all", [False, False, False], [0, 1, 2]),
        ("best", [True, False, True], [2]),
    ],
)
def test_sft_trains_what_it_is_told_to_all_alike(on, is_correct, expected) -> None:
    scored = [
        Scored(correct, reward, 0.0, 5)
        for correct, reward in zip(is_correct, (1.0, 2.0, 3.0), strict=True)
    ]
    targets = Sft(on=on).targets(scored)
    assert [target.index for target in targets] == expected
    assert all((target.weight, target.penalty) == (1.0, 0.0) for target in targets)
    assert Sft(on=on).trains_one == (on == "best")


def test_report_calls_sft_by_what_it_trains_on() -> None:
    recipe = {
        "student": {"model": "org/small"},
        "teacher": {"model": "org/large", "prompt": {"shots": []}},
        "objective": {"kind": "advdistill", "tau": 0.5, "lambda": 0.2},
        "compare": {
            "baselines": [],
            "students": [
                {"kind": "sft", "name": "", "model": "", "group_size": None},
                {"kind": "sft", "name": "rft", "model": "", "group_size": 4, "on": "correct"},
                {"kind": "sft", "name": "every", "model": "", "group_size": None, "on": "all"},
            ],
        },
    }
    labels = [model_label(name, recipe) for name in ("sft", "rft", "every", "advdistill")]
    assert labels == [
        "SFT on best completion",
        "SFT on correct completions, 4 completions",
        "SFT on all completions (every)",
        "AdvDistill",
    ]


def test_sft_normalisation_by_token_and_by_sequence() -> None:
    logprob = torch.tensor([-1.0, -3.0, -2.0, -2.0, -5.0], dtype=torch.float64)
    lengths = torch.tensor([2.0, 3.0], dtype=torch.float64)
    batch = LossBatch(
        torch.tensor([0, 0, 1, 1, 1]), lengths, lengths**0, 0 * lengths, torch.arange(2)
    )
    (by_token,) = Sft()(Outputs(logprob), batch)
    (by_sequence,) = Sft(normalize="sequence")(Outputs(logprob), batch)
    assert (by_token.total.item(), by_token.denominator) == (13.0, "tokens")
    assert (by_sequence.total.item(), by_sequence.denominator) == (5.0, "completions")
