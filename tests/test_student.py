"""Loss and gradient of the student against plain per-sequence forwards in float64.

Tolerances: float32 against float64 on a 2-layer model, 1e-5 relative to the largest gradient.
"""

from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import make_tiny_model
from ranks_for_tests import make_groups
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from fastdistill_ray.config import LoraKnobs
from fastdistill_ray.objectives import AdvDistill, Sft
from fastdistill_ray.packing import (
    MicroBatch,
    Segment,
    TrainCompletion,
    TrainGroup,
    pack_groups,
    packed_batch,
    plain_batch,
)
from fastdistill_ray.student import (
    ChunkedLogprob,
    Student,
    check_packed_attention,
    load_student,
    probe_group,
    to_device,
)

CPU = torch.device("cpu")
ADVDISTILL = AdvDistill()


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    return make_tiny_model(str(path), seed=3, tie_word_embeddings=request.param)


def load(folder: str, vocab_size: int = 10**6, shared_prompt: bool = True) -> Student:
    return load_student(
        folder, vocab_size=vocab_size, device=CPU, shared_prompt=shared_prompt, lora=LoraKnobs()
    )


def chunks_of(monkeypatch: pytest.MonkeyPatch, device: str, *, rows: int, width: int) -> None:
    """The head takes `width` entries of the vocabulary at a time for that many rows."""
    monkeypatch.setattr("fastdistill_ray.student.MIN_ROWS", 1)
    monkeypatch.setattr("fastdistill_ray.student.CHUNK_BYTES", {device: 4 * rows * width})


def loss_and_gradients(
    student: Student,
    batches: list[MicroBatch],
    objective: AdvDistill | Sft = ADVDISTILL,
    device: torch.device = CPU,
) -> tuple[float, dict[str, torch.Tensor]]:
    """As the training loop does: micro-batches accumulate, counts are those of all of them."""
    student.zero_grad()
    total = 0.0
    counts = {name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts}
    for batch in batches:
        terms = objective(student(to_device(batch.inputs, device)), to_device(batch.loss, device))
        loss = sum(term.coefficient * term.total / counts[term.denominator] for term in terms)
        loss.backward()
        total += loss.item()
    return total, {name: one.grad.clone() for name, one in student.model.named_parameters()}


def reference_advdistill(folder: str, groups: list[TrainGroup]) -> tuple[float, dict]:
    """eq. 5 to 9 with one forward per completion, float64, the model's own logits."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )
    loss = torch.zeros((), dtype=torch.float64)
    for group in groups:
        for one in group.completions:
            ids = torch.tensor([[*group.prompt_ids, *one.token_ids]])
            logprob = model(ids).logits[0].log_softmax(-1)
            first = len(group.prompt_ids)
            chosen = [logprob[t - 1, ids[0, t]] for t in range(first, ids.shape[1])]
            mean_probability = torch.stack(chosen).exp().mean()
            loss = loss - one.weight * torch.stack(chosen).mean()
            loss = loss - 0.5 * one.penalty * torch.log(1 - mean_probability.clamp(max=0.999))
    loss = loss / len(groups)
    loss.backward()
    return loss.item(), {name: one.grad for name, one in model.named_parameters()}


def assert_same(actual: tuple[float, dict], expected: tuple[float, dict], tolerance: float) -> None:
    assert actual[0] == pytest.approx(expected[0], rel=tolerance)
    assert actual[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        difference = (actual[1][name] - gradient).abs().max()
        assert difference <= tolerance * gradient.abs().max(), name


def test_advdistill_loss_and_gradient_equal_a_naive_float64_reference(folder: str) -> None:
    groups = make_groups()
    batches = pack_groups(groups, micro_batch_tokens=40, shared_prompt=True, mask_prompt=True)
    assert len(batches) == 2
    actual = loss_and_gradients(load(folder), batches)
    assert_same(actual, reference_advdistill(folder, groups), 1e-5)


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
    assert check_packed_attention(student, probe_group(300), CPU, precision="fp32") < 1e-5


def test_check_packed_attention_refuses_a_model_that_ignores_the_mask(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = load(folder)
    with torch.no_grad():  # sharp attention, so that what is seen matters
        for name, one in student.named_parameters():
            if "proj" in name:
                one.mul_(20)
    monkeypatch.setattr(
        "fastdistill_ray.student.attention_arguments",
        lambda inputs, config: {"segments": [Segment(0, inputs.input_ids.shape[1], 0, 0)]},
    )
    with pytest.raises(ValueError, match=r"training\.shared_prompt: false"):
        check_packed_attention(student, probe_group(300), CPU, precision="fp32")
