"""Weights that each rank reads its own part of, against transformers' from_pretrained, to the
bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.experts import make_experts
from support.learner import load, losses, make_learner
from support.models import make_tiny_model
from transformers import AutoModelForCausalLM

from fastdistill_ray.errors import UserError
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.export import export_student
from fastdistill_ray.training.knobs import LoraKnobs
from fastdistill_ray.training.student import prepare_model

SCRIPT = Path(__file__).parents[1] / "support" / "processes" / "loading.py"
EXPORTS = "bf16-True", "bf16-False"


def read_by(world_size: int, folder: Path, *models: str, lora: int = 0) -> dict[str, dict]:
    command = [sys.executable, str(SCRIPT), str(folder)]
    rest = [str(world_size), str(folder / "found.pt"), str(lora), *models]
    ranks = [subprocess.Popen([*command, str(rank), *rest]) for rank in range(world_size)]
    assert [rank.wait() for rank in ranks] == [0] * world_size
    return torch.load(folder / "found.pt")


def assert_equal(found: dict[str, torch.Tensor], model: torch.nn.Module) -> None:
    expected = [*model.state_dict().items(), *model.named_buffers()]
    assert set(found) == {name for name, _ in expected}
    for name, tensor in expected:
        assert torch.equal(found[name], tensor), name


@pytest.mark.long
def test_shards_of_two_ranks_are_what_from_pretrained_gives_to_the_bit(tmp_path: Path) -> None:
    """Tied, untied in bf16, and with experts that transformers fuses."""
    make_tiny_model(str(tmp_path / "tied"))
    untied = make_tiny_model(str(tmp_path / "untied"), tie_word_embeddings=False)
    AutoModelForCausalLM.from_pretrained(untied, dtype=torch.bfloat16).save_pretrained(untied)
    make_experts(str(tmp_path / "experts"))
    found = read_by(2, tmp_path, "tied", "untied", "experts")
    for name, tensors in found.items():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)
        assert_equal(tensors, expected)


@pytest.mark.long
def test_adapter_on_two_ranks_is_the_one_that_peft_draws_on_a_whole_model(tmp_path: Path) -> None:
    folder = make_tiny_model(str(tmp_path / "model"))
    (found,) = read_by(2, tmp_path, "model", lora=4).values()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    expected = prepare_model(model, LoraKnobs(rank=4))
    assert any(tensor.any() for name, tensor in found.items() if "lora_A" in name)
    assert_equal(found, expected)


@pytest.mark.usefixtures("world_of_one")
def test_base_of_an_adapter_in_bf16_trains_and_exports_to_the_digit_as_one_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny_model(str(tmp_path / "model"))
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    lora, found, kinds = LoraKnobs(rank=4), [], []
    for precision, is_held in (("bf16", True), ("bf16", False), ("fp32", True)):
        with monkeypatch.context() as patch:
            if not is_held:
                patch.setattr("fastdistill_ray.training.learner.hold_frozen", lambda *_: None)
            learner = make_learner(folder, lora=lora, precision=precision)
        out = tmp_path / f"{precision}-{is_held}"
        found.append(losses(learner, folder, range(3)))
        export_student(learner.student, folder, Place(out))
        parameters = list(learner.student.parameters())
        assert {one.dtype for one in parameters if one.requires_grad} == {torch.float32}
        kinds.append({one.dtype for one in parameters if not one.requires_grad})
    assert kinds == [{torch.bfloat16}, {torch.float32}, {torch.float32}]
    assert found[0] == found[1] != found[2]
    held, whole = (load_file(tmp_path / name / "model.safetensors") for name in EXPORTS)
    assert set(held) == set(whole)
    assert all(torch.equal(held[name], whole[name]) for name in whole)


@pytest.mark.parametrize("is_same", [True, False])
def test_head_that_is_stored_beside_its_embedding_is_tied_where_it_is_the_same(
    tmp_path: Path, is_same: bool
) -> None:
    folder = make_tiny_model(str(tmp_path))
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embedding.clone() if is_same else embedding + 1
    save_file(tensors, file, metadata={"format": "pt"})
    student = load(folder)
    head, own = (
        student.model.get_output_embeddings().weight,
        student.model.get_input_embeddings().weight,
    )
    assert (head is own) == is_same
    assert torch.equal(head, tensors["lm_head.weight"])
    assert_equal(
        dict([*student.model.state_dict().items(), *student.model.named_buffers()]),
        AutoModelForCausalLM.from_pretrained(folder),
    )


def test_weights_of_the_older_format_are_read(tmp_path: Path) -> None:
    folder = make_tiny_model(str(tmp_path))
    expected = AutoModelForCausalLM.from_pretrained(folder)
    (tmp_path / "model.safetensors").unlink()
    torch.save(expected.state_dict(), tmp_path / "pytorch_model.bin")
    student = load(folder)
    assert_equal(
        dict([*student.model.state_dict().items(), *student.model.named_buffers()]), expected
    )


def test_files_without_a_tensor_or_with_one_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(str(tmp_path))
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"no tensor model\.norm\.weight, 1 are missing"):
        load(folder)
    save_file(tensors | {"model.norm.weight": norm[1:].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.norm\.weight of shape \[63\].*says \[64\]"):
        load(folder)
