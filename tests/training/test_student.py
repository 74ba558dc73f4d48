"""Loss and gradient of the student against plain per-sequence forwards in float64.

Tolerances: float32 against float64 on a 2-layer model, 1e-5 relative to the largest gradient.
"""

from typing import Any

import numpy as np
import pytest
import torch
from support.learner import (
    ADVDISTILL,
    CPU,
    assert_same,
    chunks_of,
    load,
    loss_and_gradients,
)
from support.models import make_tiny_model
from support.packing import pack_groups
from support.processes.ranks import make_groups
from support.reference import loss_and_gradients_by_definition
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastdistill_ray.objectives import AdvDistill, Sft
from fastdistill_ray.training.head import ChunkedLogprob
from fastdistill_ray.training.packing import (
    Segment,
    TrainCompletion,
    TrainGroup,
    packed_batch,
    plain_batch,
)
from fastdistill_ray.training.packing_check import check_packed_attention, probe_group
from fastdistill_ray.training.student import to_device


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    return make_tiny_model(str(path), seed=3, tie_word_embeddings=request.param)


def test_advdistill_loss_and_gradient_equal_a_naive_float64_reference(folder: str) -> None:
    groups = make_groups()
    batches = pack_groups(groups, micro_batch_tokens=40, shared_prompt=True, mask_prompt=True)
    assert len(batches) == 2
    actual = loss_and_gradients(load(folder), batches)
    assert_same(actual, loss_and_gradients_by_definition(ADVDISTILL, folder, groups), 1e-5)


@pytest.mark.parametrize("objective", [AdvDistill(), Sft(), Sft(normalize="sequence")])
@pytest.mark.parametrize(
    ("micro_batch_tokens", "shared_prompt", "multiple_of"),
    [(1, True, 1), (45, True, 1), (10**6, True, 128), (1, False, 1), (10**6, False, 1)],
)
def test_loss_and_gradient_do_not_depend_on_micro_batches_or_packing(
    folder: str,
    objective: AdvDistill | Sft,
    micro_batch_tokens: int,
    shared_prompt: bool,
    multiple_of: int,
) -> None:
    groups = make_groups()
    whole = [packed_batch(groups, 1)]
    batches = pack_groups(
        groups,
        micro_batch_tokens=micro_batch_tokens,
        shared_prompt=shared_prompt,
        mask_prompt=True,
        multiple_of=multiple_of,
    )
    assert_same(
        loss_and_gradients(load(folder, shared_prompt=shared_prompt), batches, objective),
        loss_and_gradients(load(folder), whole, objective),
        1e-5,
    )


def test_loss_and_gradient_do_not_depend_on_the_order_in_a_group(folder: str) -> None:
    student, groups = load(folder), make_groups()
    turned = [group._replace(completions=group.completions[::-1]) for group in groups]
    assert_same(
        loss_and_gradients(student, [packed_batch(turned[::-1], 1)]),
        loss_and_gradients(student, [packed_batch(groups, 1)]),
        1e-5,
    )


def test_loss_and_gradient_are_the_same_every_time_whatever_the_threads(folder: str) -> None:
    random = np.random.default_rng(0)
    completions = [TrainCompletion(random.integers(0, 250, 100), 0.1, 0.1) for _ in range(8)]
    group = TrainGroup("", random.integers(0, 250, 20), completions)
    student, batches = load(folder), [packed_batch([group], 1)]
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first, *others = [loss_and_gradients(student, batches) for _ in range(10)]
    finally:
        torch.set_num_threads(threads)
    for loss, gradients in others:
        assert loss == first[0]
        assert all(torch.equal(one, first[1][name]) for name, one in gradients.items())


def test_logprob_is_normalised_over_the_tokenizers_vocabulary_only(folder: str) -> None:
    inputs = to_device(plain_batch(make_groups(), mask_prompt=False).inputs, CPU)
    narrow = load(folder, vocab_size=300, shared_prompt=False)
    logits = narrow.model(inputs.input_ids, attention_mask=(inputs.group >= 0).long()).logits
    logprob = logits.flatten(0, 1)[inputs.sources, :300].log_softmax(-1)
    expected = logprob.gather(1, inputs.labels[:, None])[:, 0]
    torch.testing.assert_close(narrow(inputs).logprob, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("has_bias", [False, True])
def test_chunked_logprob_value_and_gradient_equal_autograd(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, has_bias: bool
) -> None:
    chunks_of(monkeypatch, "cpu", rows=10, width=7)
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(10, 8), torch.randn(50, 8), torch.randn(50)
    labels, slope = torch.randint(0, 50, (10,)), torch.randn(10)
    results = []
    for is_chunked in (True, False):
        leaves = [one.clone().requires_grad_() for one in (hidden, weight, bias)]
        used = leaves[2] if has_bias else None
        if is_chunked:
            logprob = ChunkedLogprob.apply(leaves[0], leaves[1], used, labels, softcap)
        else:
            logits = torch.nn.functional.linear(leaves[0], leaves[1], used)
            logits = softcap * (logits / softcap).tanh() if softcap else logits
            logprob = logits.log_softmax(-1)[torch.arange(10), labels]
        (logprob * slope).sum().backward()
        results.append([logprob.detach(), *(one.grad for one in leaves[: 2 + has_bias])])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    """The most elements of any tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunked_logprob_makes_no_tensor_of_all_tokens_and_vocabulary(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    tokens, vocabulary, width = 256, 512, 16
    chunks_of(monkeypatch, "cpu", rows=tokens, width=64)
    hidden = torch.randn(tokens, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, vocabulary, (tokens,))
    with LargestTensor() as largest:
        ChunkedLogprob.apply(hidden, weight, None, labels, None).sum().backward()
    assert largest.numel == tokens * 64


def test_chunked_logprob_of_bf16_inputs_reduces_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against float64 of the same bf16 inputs: the logits' rounding is all that is lost."""
    chunks_of(monkeypatch, "cpu", rows=64, width=300)
    torch.manual_seed(0)
    hidden = torch.randn(64, 32).bfloat16().requires_grad_()
    weight = (torch.randn(5000, 32) / 8).bfloat16().requires_grad_()
    labels, slope = torch.randint(0, 5000, (64,)), torch.randn(64)
    logprob = ChunkedLogprob.apply(hidden, weight, None, labels, None)
    (logprob * slope).sum().backward()
    exact = [one.detach().double().requires_grad_() for one in (hidden, weight)]
    expected = (exact[0] @ exact[1].T).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    (expected * slope).sum().backward()
    assert logprob.dtype == torch.float32
    assert (logprob - expected).abs().max() <= 2**-8 * expected.abs().max()
    for actual, one in zip((hidden, weight), exact, strict=True):
        assert (actual.grad - one.grad).norm() <= 2**-7 * one.grad.norm()


def test_check_packed_attention_passes_on_a_model_that_honours_the_mask(folder: str) -> None:
    student = load(folder)
    assert check_packed_attention(student, probe_group(300), CPU) < 1e-5


def test_check_packed_attention_refuses_a_model_that_ignores_the_mask(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = load(folder)
    with torch.no_grad():  # sharp attention, so that what is seen matters
        for name, one in student.named_parameters():
            if "proj" in name:
                one.mul_(20)
    monkeypatch.setattr(
        "fastdistill_ray.training.student.attention_arguments",
        lambda inputs, config: {"segments": [Segment(0, inputs.input_ids.shape[1], 0, 0)]},
    )
    with pytest.raises(ValueError, match=r"training\.shared_prompt: false"):
        check_packed_attention(student, probe_group(300), CPU)
