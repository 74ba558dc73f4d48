"""Attention in packed groups against masks written out, and against models' own eager attention."""

import pytest
import torch
from support.learner import FAMILIES, make_student
from torch.nn.attention.flex_attention import create_mask
from transformers import AutoConfig, AutoModelForCausalLM

from fastdistill_ray.training.attention import GROUPED, GroupedAttention, window_of
from fastdistill_ray.training.block_mask import packed_mask
from fastdistill_ray.training.packing import Inputs, Segment, packed_batch
from fastdistill_ray.training.packing_check import check_packed_attention, probe_group
from fastdistill_ray.training.student import Student, to_device

CPU = torch.device("cpu")


def make_inputs() -> Inputs:
    groups = [probe_group(300), probe_group(200)]
    return to_device(packed_batch(groups, 64).inputs, CPU)


def visible(inputs: Inputs, window: int | None) -> torch.Tensor:
    """[L, L]: the rule, pair by pair."""
    group, completion = inputs.group[0].tolist(), inputs.completion[0].tolist()
    position = inputs.position_ids[0].tolist()
    length = len(group)
    rows = [
        [
            k <= q
            and group[q] == group[k]
            and completion[k] in (-1, completion[q])
            and (window is None or position[q] - position[k] < window)
            for k in range(length)
        ]
        for q in range(length)
    ]
    return torch.tensor(rows)


@pytest.mark.parametrize("window", [None, 10])
def test_packed_mask_equals_the_rule_written_out(window: int | None) -> None:
    inputs = make_inputs()
    length = inputs.input_ids.shape[1]
    mask = create_mask(packed_mask(inputs, window), 1, 1, length, length, device="cpu")
    assert torch.equal(mask[0, 0], visible(inputs, window))


def test_segments_are_the_prompts_and_completions_without_padding() -> None:
    found = make_inputs().segments
    bounds = [(0, 24), (24, 40), (40, 49), (49, 69)]  # a prompt, completions of 16, 9 and 20
    first = [Segment(a, b, 0, 24 if a else 0) for a, b in bounds]
    second = [Segment(69 + a, 69 + b, 69, 69 + p) for a, b, _, p in first]
    assert found == first + second


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 10])
def test_grouped_attention_value_and_gradient_equal_a_dense_float64_softmax(
    window: int | None, softcap: float | None
) -> None:
    inputs, scale = make_inputs(), 0.4
    length = inputs.input_ids.shape[1]
    torch.manual_seed(1)
    leaves = [torch.randn(heads, length, 8, requires_grad=True) for heads in (4, 2, 2)]
    doubles = [one.detach().double().requires_grad_() for one in leaves]
    slope = torch.randn(4, length, 8)
    out = GroupedAttention.apply(*leaves, inputs.segments, scale, window, softcap)
    (out * slope).sum().backward()
    query, key, value = doubles[0], *(one.repeat_interleave(2, 0) for one in doubles[1:])
    scores = query @ key.mT * scale
    if softcap:
        scores = softcap * (scores / softcap).tanh()
    is_text = inputs.group[0] >= 0
    scores = scores.masked_fill(~visible(inputs, window), -torch.inf)
    expected = (scores.softmax(-1) @ value) * is_text[:, None]
    (expected * slope).sum().backward()
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    for single, double in zip(leaves, doubles, strict=True):
        torch.testing.assert_close(single.grad.double(), double.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", [GROUPED, "flex_attention"])
def test_families_of_models_give_packed_groups_their_own_eager_numbers(
    family: str, attention: str
) -> None:
    student = make_student(family, attention)
    with torch.compiler.set_stance("force_eager"):
        difference = check_packed_attention(student, probe_group(300), CPU)
    assert difference < 1e-5
    assert student.model.config._attn_implementation == attention


@pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma2", "gemma3_text"])
def test_a_window_that_is_ignored_is_refused_at_any_length(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = make_student(family, "flex_attention")
    assert window_of(student.model.config) >= 1024
    monkeypatch.setattr("fastdistill_ray.training.attention.window_of", lambda config: None)
    with (
        torch.compiler.set_stance("force_eager"),
        pytest.raises(ValueError, match=r"training\.shared_prompt: false"),
    ):
        check_packed_attention(student, probe_group(300), CPU)


@pytest.mark.parametrize("family", ["bloom", "falcon", "mpt"])
def test_an_architecture_that_takes_no_packed_groups_is_refused(family: str) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "alibi": True}
    small = {"d_model": 16, "n_layers": 1, "n_heads": 2} if family == "mpt" else shape
    config = AutoConfig.for_model(family, vocab_size=300, bos_token_id=0, eos_token_id=0, **small)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = Student(AutoModelForCausalLM.from_config(config), 300)
    with torch.no_grad():
        for one in student.parameters():
            one.mul_(20)
    student.model.config._attn_implementation = GROUPED
    with pytest.raises(ValueError, match=rf"{family}.*training\.shared_prompt: false"):
        check_packed_attention(student, probe_group(300), CPU)
