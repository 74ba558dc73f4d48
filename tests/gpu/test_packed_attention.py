"""FlexAttention on CUDA: packed groups give the loss and gradient of padded rows.

Tolerance: float32 kernels of different order, 1e-3 of the largest gradient.
"""

import pytest
import torch
from models_for_tests import make_tiny_model

from fastdistill_ray.config import LoraKnobs
from fastdistill_ray.objectives import AdvDistill
from fastdistill_ray.packing import MicroBatch, packed_batch, plain_batch
from fastdistill_ray.student import (
    Student,
    check_packed_attention,
    load_student,
    probe_group,
    to_device,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


@pytest.fixture
def student(tmp_path) -> Student:
    folder = make_tiny_model(str(tmp_path / "model"))
    return load_student(folder, vocab_size=10**6, device=CUDA, shared_prompt=True, lora=LoraKnobs())


def gradients(student: Student, batch: MicroBatch) -> tuple[float, dict[str, torch.Tensor]]:
    student.zero_grad()
    terms = AdvDistill()(student(to_device(batch.inputs, CUDA)), to_device(batch.loss, CUDA))
    loss = sum(term.coefficient * term.total for term in terms)
    loss.backward()
    return loss.item(), {name: one.grad.clone() for name, one in student.named_parameters()}


def test_packed_flex_attention_equals_padded_rows_in_loss_and_gradient(student: Student) -> None:
    assert student.model.config._attn_implementation == "flex_attention"
    groups = [probe_group(300), probe_group(200)]
    loss, packed = gradients(student, packed_batch(groups, 128))
    student.model.set_attn_implementation("sdpa")
    expected_loss, plain = gradients(student, plain_batch(groups, mask_prompt=True))
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    for name, gradient in plain.items():
        assert (packed[name] - gradient).abs().max() <= 1e-3 * gradient.abs().max(), name


def test_check_packed_attention_passes_with_block_masks(student: Student) -> None:
    assert check_packed_attention(student, probe_group(300), precision="fp32") < 1e-3
