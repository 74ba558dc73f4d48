"""DistiLLM-2 by the paper's numbers, and rows of a store of whom each text is told."""

from pathlib import Path

import pytest
import torch
from support.groups import make_completion, make_group
from support.learner import make_learner
from support.models import make_tiny_model

from fastdistill_ray.objectives import AnyObjective, DistiLlm2, SkewKl, SkewReverseKl
from fastdistill_ray.objectives.contract import LossBatch, Measure, Outputs, Scored
from fastdistill_ray.prompts import Prompted, PromptKnobs
from fastdistill_ray.training.head import Readout
from fastdistill_ray.training.operators import divergence_of_parts
from fastdistill_ray.training.step import train_step

P = [[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]]  # of the teacher, then of the student


def test_skewed_divergences_of_a_known_pair_are_the_papers_each_at_its_own_places():
    p, q = (torch.tensor([one] * 4, dtype=torch.float64).log() for one in P)
    head = torch.eye(3, dtype=torch.float64)
    found = divergence_of_parts(
        Readout(q, head),
        Readout(p, head),
        [Measure("skew_kl", 0.1), Measure("skew_reverse_kl", 0.1)],
        [torch.tensor([0, 3]), torch.tensor([2, 1])],
    )
    skl, srkl = 0.1485504226, 0.1523769343
    assert found.tolist() == pytest.approx([skl, srkl, srkl, skl], abs=1e-10)


def scored(*by_student: bool) -> list[Scored]:
    return [Scored(True, 1.0, 0.0, 3, one) for one in by_student]


def test_every_text_has_its_share_of_the_group_the_students_own_as_a_penalty():
    objective = DistiLlm2()
    found = objective.targets(scored(False, False)) + objective.targets(scored(True))
    assert [one[1:] for one in found] == [(0.5, 0.0), (0.5, 0.0), (0.0, 1.0)]


@pytest.mark.parametrize(("progress", "beta"), [(0.0, 1.0), (0.25, 1.25), (0.5, 1.5), (0.9, 1.5)])
def test_loss_is_the_mean_of_each_texts_mean_with_a_beta_that_grows_for_half_of_the_training(
    progress: float, beta: float
) -> None:
    """A teacher's text of two tokens and the student's own of one, in a group each."""
    batch = LossBatch(
        completion=torch.tensor([0, 0, 1]),
        lengths=torch.tensor([2.0, 1.0]),
        weight=torch.tensor([1.0, 0.0]),
        penalty=torch.tensor([0.0, 1.0]),
        group=torch.tensor([0, 1]),
        progress=progress,
    )
    outputs = Outputs(torch.zeros(3), divergence=torch.tensor([0.1, 0.3, 0.7]))
    for objective, weight in ((DistiLlm2(beta=1.5), beta), (DistiLlm2(), 1.0)):
        terms = objective(outputs, batch)
        assert {term.denominator for term in terms} == {"groups"}
        loss = sum(term.coefficient * term.total.item() / 2 for term in terms)
        assert loss == pytest.approx(((2 - weight) * 0.2 + weight * 0.7) / 2)


@pytest.mark.usefixtures("world_of_one")
def test_rows_say_who_wrote_them_and_the_update_how_far_the_training_is(tmp_path: Path) -> None:
    """With one text a group the parts are those of the two objectives of the first paper."""
    student, teacher = (make_tiny_model(str(tmp_path / str(n)), seed=n) for n in (3, 4))
    texts = {None: [5, 6, 7, 8], 2: [9, 10]}
    groups = {
        number: make_group(
            f"{number}", [make_completion(token_ids=ids)], teacher=teacher, round=number
        )
        for number, ids in texts.items()
    }

    def metrics_of(objective: AnyObjective, rounds: list[int | None]) -> dict[str, float]:
        frozen = Prompted(teacher, PromptKnobs(system=""))
        learner = make_learner(student, objective=objective, frozen=frozen)
        rows = [groups[number] for number in rounds]
        row = {"step": 5, "epoch": 0, "num_groups": len(rows), "groups": rows}
        return train_step(learner, row, 20)

    both = metrics_of(DistiLlm2(beta=1.5), [None, 2])
    parts = metrics_of(SkewKl(), [None]), metrics_of(SkewReverseKl(), [2])
    up, down = (part["loss/divergence"] / 2 for part in parts)
    assert both["loss/skew_kl"] == pytest.approx(up, rel=1e-5)
    assert both["loss/skew_reverse_kl"] == pytest.approx(down, rel=1e-5)
    assert both["train/loss"] == pytest.approx(0.75 * up + 1.25 * down, rel=1e-5)
