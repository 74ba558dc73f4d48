"""On-policy distillation against sums over all that could have been drawn, and papers' numbers."""

import itertools
import math

import pytest
import torch

from fastdistill_ray.objectives import Opd
from fastdistill_ray.objectives.contract import LossBatch, Outputs
from fastdistill_ray.objectives.opd import mean_of_later

V, T = 4, 3


def batch_of(*lengths: int) -> LossBatch:
    ones = torch.ones(len(lengths), dtype=torch.float64)
    return LossBatch(
        completion=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        lengths=torch.tensor(lengths, dtype=torch.float64),
        weight=ones,
        penalty=ones,
        group=torch.zeros(len(lengths), dtype=torch.int64),
    )


def distributions(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the student, which learn, and the teacher's log-probabilities."""
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(V, dtype=torch.float64, generator=random, requires_grad=True)
    return student, torch.randn(V, dtype=torch.float64, generator=random).log_softmax(-1)


def outputs_of(objective: Opd, student: torch.Tensor, lp: torch.Tensor, drawn: int) -> Outputs:
    lq = student.log_softmax(-1)
    top = None
    if objective.form == "topk":
        ids = lq.detach().topk(objective.k).indices
        is_in = torch.tensor([float(drawn in ids)], dtype=torch.float64)
        top = lq[ids][None], lp[ids][None], is_in
    return Outputs(
        lq[drawn][None], frozen_logprob=lp[drawn][None], written=lq[drawn].detach()[None], top=top
    )


@pytest.mark.parametrize("knobs", [{}, {"form": "topk", "k": 1}, {"form": "topk", "k": 3}])
def test_mean_over_all_draws_is_the_reverse_kl_with_its_gradient(knobs):
    objective = Opd(**knobs)
    student, lp = distributions(0)
    lq = student.log_softmax(-1)
    exact = (lq.exp() * (lq - lp)).sum()
    (expected,) = torch.autograd.grad(exact, student)
    value, gradient = 0.0, torch.zeros(V, dtype=torch.float64)
    for drawn in range(V):
        (term,) = objective(outputs_of(objective, student, lp, drawn), batch_of(1))
        share = student.detach().softmax(-1)[drawn]
        value += share * term.total.item()
        gradient += share * torch.autograd.grad(term.total, student)[0]
    assert value == pytest.approx(exact.item(), abs=1e-12)
    assert torch.allclose(gradient, expected, atol=1e-12)


def test_texts_of_an_older_student_count_by_the_ratio_of_both_probabilities():
    """Drawn by mu and never truncated, the mean is the same KL; truncated, no ratio is above 2."""
    objective = Opd(max_ratio=1e9)
    student, lp = distributions(1)
    mu = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    lq = student.log_softmax(-1)
    exact = (lq.exp() * (lq - lp)).sum()
    (expected,) = torch.autograd.grad(exact, student)
    gradient = torch.zeros(V, dtype=torch.float64)
    for drawn in range(V):
        lq = student.log_softmax(-1)
        outputs = Outputs(
            lq[drawn][None], frozen_logprob=lp[drawn][None], written=mu[drawn].log()[None]
        )
        (term,) = objective(outputs, batch_of(1))
        gradient += mu[drawn] * torch.autograd.grad(term.total, student)[0]
    assert torch.allclose(gradient, expected, atol=1e-12)
    far = Outputs(torch.zeros(1), frozen_logprob=-torch.ones(1), written=-torch.ones(1))
    (term,) = Opd()(far, batch_of(1))
    assert term.total.item() == pytest.approx(2.0)  # e^1 is truncated, log q - log p is 1


def test_tokens_before_a_texts_first_span_are_of_no_span():
    """Two texts, of whose first tokens only those of the first are in a span: together they are
    what each is alone, and what is in no span has neither value nor slope."""
    random = torch.Generator().manual_seed(2)
    own, written, its = (torch.randn(9, dtype=torch.float64, generator=random) for _ in range(3))
    starts = torch.tensor([1, 0, 1, 0, 0, 1, 0, 1, 0], dtype=torch.float64)
    objective = Opd(form="chunks")

    def value_of(part: slice, *lengths: int) -> tuple[float, torch.Tensor]:
        logprob = own[part].clone().requires_grad_()
        spans = its[part] * starts[part], starts[part]
        outputs = Outputs(logprob, written=written[part], spans=spans)
        (term,) = objective(outputs, batch_of(*lengths))
        return term.total.item(), torch.autograd.grad(term.total, logprob)[0]

    first, second = value_of(slice(0, 4), 4), value_of(slice(4, 9), 5)
    both = value_of(slice(0, 9), 4, 5)
    assert both[0] == pytest.approx(first[0] + second[0])
    assert torch.allclose(both[1], torch.cat([first[1], second[1]]))
    assert both[1][4] == 0
    expected = 0.0
    for a, b in ((0, 2), (2, 4), (5, 7), (7, 9)):
        said = own[a:b].sum()
        ratio = min(2.0, (said - written[a:b].sum()).exp().item())
        expected += ratio * (said - its[a]).item()
    assert both[0] == pytest.approx(expected)


def test_rewards_of_what_follows_are_the_papers_numbers():
    """methods of MiniLLM: log p = [-.5, -1.2, -.3] and log q = [-.9, -.4, -.6] give the mean reward
    of later tokens -.25, .3 and 0; two texts in one batch do not mix."""
    reward = torch.tensor([0.4, -0.8, 0.3, 5.0, 7.0], dtype=torch.float64)
    found = mean_of_later(reward, batch_of(3, 2))
    assert found.tolist() == pytest.approx([-0.25, 0.3, 0.0, 7.0, 0.0])


def test_what_follows_is_clipped_as_ppo_clips():
    """With advantage 1 the loss is -1.2 beyond a ratio of 1.2 and has no slope; with -1 it goes on.
    The ratio is that of the student now to when it drew."""
    for advantage, expected, slope in ((1.0, -1.2, 0.0), (-1.0, math.e, math.e)):
        logprob = torch.tensor([0.0, 0.0], dtype=torch.float64, requires_grad=True)
        outputs = Outputs(
            logprob,
            divergence=torch.zeros(2, dtype=torch.float64),
            frozen_logprob=torch.tensor([0.0, advantage], dtype=torch.float64),
            written=torch.tensor([-1.0, 0.0], dtype=torch.float64),
        )
        _, following = Opd(form="minillm")(outputs, batch_of(2))
        assert following.total.item() == pytest.approx(expected)
        assert torch.autograd.grad(following.total, logprob)[0][0].item() == pytest.approx(slope)


def test_token_form_falls_as_the_toy_whose_course_is_known():
    """A student of one distribution over four tokens at each of three places, gradient steps of
    rate 1 on the exact mean over its own texts: the KL to the teacher falls at every step and is
    below a fiftieth after 200."""
    random = torch.Generator().manual_seed(2)
    student = torch.zeros(T, V, dtype=torch.float64, requires_grad=True)
    teacher = (2 * torch.randn(T, V, dtype=torch.float64, generator=random)).log_softmax(-1)
    objective, course = Opd(), []
    texts = list(itertools.product(range(V), repeat=T))
    for _ in range(200):
        lq = student.log_softmax(-1)
        course.append((lq.exp() * (lq - teacher)).sum().item())
        total = torch.zeros((), dtype=torch.float64)
        for text in texts:
            own = lq[range(T), list(text)]
            outputs = Outputs(
                own, frozen_logprob=teacher[range(T), list(text)], written=own.detach()
            )
            (term,) = objective(outputs, batch_of(T))
            total = total + own.sum().exp().detach() * term.total
        (slope,) = torch.autograd.grad(total, student)
        with torch.no_grad():
            student -= slope
    assert all(later < earlier for earlier, later in itertools.pairwise(course))
    assert course[-1] < course[0] / 50
