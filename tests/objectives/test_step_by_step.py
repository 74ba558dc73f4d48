"""Distilling Step-by-Step by the paper's numbers, and how a store's texts become two tasks."""

from pathlib import Path

import pytest
import torch
from support.groups import make_completion, make_group
from support.models import make_tiny_model

from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.objectives import StepByStep
from fastdistill_ray.objectives.contract import LossBatch, Outputs, Scored
from fastdistill_ray.objectives.step_by_step import EXPLAIN
from fastdistill_ray.prompts import PromptKnobs, build_messages, parts_of, render
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.training.packing import TrainGroup
from fastdistill_ray.training.reading import StudentText, prepare_group
from fastdistill_ray.training.texts import student_text

RIGHT = "<think>2 + 2 is 4.</think>\n<answer>\\boxed{4}</answer>"
LABEL, RATIONALE = 1.2, 2.0  # of methods.md 5.3


def test_loss_is_that_of_the_released_code_and_half_the_papers_sum():
    """An answer of two tokens and thoughts of one, in a group each."""
    batch = LossBatch(
        completion=torch.tensor([0, 0, 1]),
        lengths=torch.tensor([2.0, 1.0]),
        weight=torch.tensor([1.0, 0.0]),
        penalty=torch.tensor([0.0, 1.0]),
        group=torch.tensor([0, 1]),
    )
    outputs = Outputs(-torch.tensor([LABEL - 0.4, LABEL + 0.4, RATIONALE]))

    def loss(alpha: float) -> float:
        terms = StepByStep(alpha=alpha)(outputs, batch)
        assert [term.denominator for term in terms] == ["groups", "explained"]
        return float(sum(term.coefficient * term.total for term in terms))

    assert loss(0.5) == pytest.approx(1.6) == pytest.approx((LABEL + RATIONALE) / 2)
    assert loss(1.0) == pytest.approx(LABEL)


def test_correct_completions_share_their_group_and_others_have_nothing():
    scored = [Scored(correct, 1.0, 0.0, 3) for correct in (True, False, True)]
    assert StepByStep().targets(scored) == [(0, 0.5, 0.5), (2, 0.5, 0.5)]
    assert StepByStep().targets(scored[1:2]) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (RIGHT, ("2 + 2 is 4.", "<answer>\\boxed{4}</answer>")),
        ("so 4</think> 4", ("so 4", "4")),  # after a prompt that opened the thoughts
        ("<think></think>4", ("", "4")),
        ("<think>so 4</think>", ("so 4", "")),
        ("4", ("", "4")),
        ("<think>cut", ("", "<think>cut")),
    ],
)
def test_parts_of_a_text(text: str, parts: tuple[str, str]):
    assert parts_of(text) == parts


def views_of(text: StudentText, objective: StepByStep, *texts: str, limit: int = 512):
    completions = [
        make_completion(one, [7, 8, 9], verdict="correct", finish_reason="stop") for one in texts
    ]
    row = make_group("p", completions, question="2 + 2?")
    return prepare_group(row, text, objective, advantage=AdvantageKnobs(), max_seq_len=limit)


def test_a_completion_is_an_answer_to_the_students_prompt_and_thoughts_to_another(tmp_path: Path):
    folder = make_tiny_model(str(tmp_path))
    tokenizer, prompt = load_tokenizer(folder), PromptKnobs(system="Give the result.")
    text = student_text(folder, tokenizer, prompt, {}, explained=EXPLAIN)
    label, rationale = views_of(text, StepByStep(), RIGHT, "4", "<think>so</think>")
    explain = prompt.model_copy(update={"system": EXPLAIN})
    for group, knobs, said in (
        (label, prompt, "<answer>\\boxed{4}</answer>"),
        (rationale, explain, "2 + 2 is 4."),
    ):
        expected = render(build_messages("2 + 2?", knobs), tokenizer, knobs)
        assert group.prompt_ids.tolist() == expected
        (one,) = group.completions  # the other two have no thoughts, or no answer
        assert one.token_ids[-1] == text.eos_id
        assert tokenizer.decode(one.token_ids[:-1]) == said
    assert [group.is_explained for group in (label, rationale)] == [False, True]
    weights = [
        (one.weight, one.penalty) for one in (label.completions[0], rationale.completions[0])
    ]
    assert weights == [(1.0, 0.0), (0.0, 1.0)]
    (alone,) = views_of(text, StepByStep(alpha=1.0), RIGHT)
    assert not alone.is_explained and same(alone, label)


def test_thoughts_that_do_not_fit_leave_the_answer_its_whole_share(tmp_path: Path):
    folder = make_tiny_model(str(tmp_path))
    text = student_text(folder, load_tokenizer(folder), PromptKnobs(system=""), {}, explained="E")
    long = "<think>" + "so " * 600 + "</think>4"
    label, rationale = views_of(text, StepByStep(), RIGHT, long)
    assert [one.weight for one in label.completions] == [0.5, 0.5]
    assert [one.penalty for one in rationale.completions] == [1.0]


def same(one: TrainGroup, other: TrainGroup) -> bool:
    return [each.token_ids.tolist() for each in one.completions] == [
        each.token_ids.tolist() for each in other.completions
    ]
