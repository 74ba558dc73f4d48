"""The mean over all tokens but one against full logits in float64."""

import pytest
import torch

from fastdistill_ray.training import head
from fastdistill_ray.training.head import Readout
from fastdistill_ray.training.others import mean_of_others

K, D, V = 4, 6, 53


@pytest.mark.parametrize(("softcap", "temperature"), [(None, 1.0), (3.0, 2.0)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_mean_of_others_and_gradient_equal_full_logits(monkeypatch, softcap, temperature, has_bias):
    monkeypatch.setitem(head.CHUNK_BYTES, "cpu", 4 * 11 * K)
    monkeypatch.setattr(head, "MIN_ROWS", 1)
    torch.manual_seed(0)
    tensors = [torch.randn(K, D).double(), torch.randn(V, D).double(), torch.randn(V).double()]
    tensors = [one.requires_grad_() for one in tensors[: 2 + has_bias]]
    ids = torch.tensor([0, 52, 11, 30])
    found = mean_of_others(Readout(*tensors, softcap=softcap), ids, temperature)
    logits = tensors[0] @ tensors[1].T + (tensors[2] if has_bias else 0.0)
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    logprob = (logits / temperature).log_softmax(-1)
    expected = (logprob.sum(-1) - logprob.gather(1, ids[:, None])[:, 0]) / (V - 1)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    weights = torch.rand(K, dtype=torch.float64)
    own = torch.autograd.grad(found @ weights, tensors, retain_graph=True)
    its = torch.autograd.grad(expected @ weights, tensors)
    for one, other in zip(own, its, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)
