"""Exports reload elsewhere with the numbers of what was trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from support.experts import make_experts
from support.learner import load, losses, make_learner
from support.models import make_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.weights import check_weights
from fastdistill_ray.training.export import (
    ADAPTER,
    export_student,
    merge_adapter,
    name_base,
    tensor_names,
)
from fastdistill_ray.training.knobs import LoraKnobs
from fastdistill_ray.training.learner import Learner

SCRIPT = Path(__file__).parents[1] / "support" / "processes" / "exports.py"
pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return make_tiny_model(str(tmp_path / "model"), tie_word_embeddings=request.param)


def logits_of(learner: Learner, ids: torch.Tensor) -> torch.Tensor:
    """Of the model by itself; the root of FSDP2 gathers on its own forward only."""
    learner.student.unshard()
    for module in learner.student.model.model.layers:
        module.unshard()
    learner.student.model.set_attn_implementation("sdpa")
    return learner.student.model(ids).logits


@pytest.mark.parametrize("lora", [LoraKnobs(), LoraKnobs(rank=4)], ids=["full", "lora"])
def test_export_reloads_in_transformers_with_equal_logits(
    folder: str, tmp_path: Path, lora: LoraKnobs
) -> None:
    learner = make_learner(folder, lora=lora)
    losses(learner, folder, range(3))
    out = tmp_path / "epoch_1"
    export_student(learner.student, folder, out)
    exported = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert exported.dtype == torch.bfloat16
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not (tmp_path / ".epoch_1").exists()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        trained = logits_of(learner, ids)
        reloaded = exported.float()(ids).logits
        base = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    assert (trained - reloaded).abs().max() < 0.1 * (trained - base).abs().max()
    tokenizer, source = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == source.chat_template
    assert tokenizer.get_vocab() == source.get_vocab()


def test_exported_files_may_be_read_by_whom_the_umask_lets(folder: str, tmp_path: Path) -> None:
    learner = make_learner(folder, lora=LoraKnobs(rank=4))
    (Path(folder) / "config.json").chmod(0o600)  # a private copy of the source
    before = os.umask(0o027)
    try:
        export_student(learner.student, folder, tmp_path / "out")
    finally:
        os.umask(before)
    made = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert (tmp_path / "out" / ADAPTER / "adapter_model.safetensors") in made
    modes = {(one.is_dir(), one.stat().st_mode & 0o777) for one in made}
    assert modes == {(True, 0o750), (False, 0o640)}


def test_adapter_alone_on_its_base_is_the_merged_export(folder: str, tmp_path: Path) -> None:
    learner = make_learner(folder, lora=LoraKnobs(rank=4, alpha=64))
    losses(learner, folder, range(3))
    export_student(learner.student, folder, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = base(ids).logits
        model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / ADAPTER)
        difference = (model(ids).logits - merged(ids).logits).abs().max()
        assert difference < 0.1 * (before - merged(ids).logits).abs().max()
        exact = model.merge_and_unload()(ids).logits  # peft's own merge, of float32 weights
        torch.testing.assert_close(exact, logits_of(learner, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("told", ["", "org/model"])
def test_adapter_names_the_base_that_others_can_have(folder: str, tmp_path: Path, told) -> None:
    learner = make_learner(folder, lora=LoraKnobs(rank=4))
    if told:
        name_base(learner.student, told)
    export_student(learner.student, folder, tmp_path / "out")
    config = json.loads((tmp_path / "out" / ADAPTER / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == (told or folder)


def test_export_of_an_untrained_bf16_model_is_that_model(folder: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    export_student(make_learner(folder).student, folder, tmp_path / "epoch_1")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "epoch_1", dtype="auto")
    ids = torch.arange(30)[None]
    assert torch.equal(exported(ids).logits, model(ids).logits)


def test_merge_adapter_adds_the_scaled_product() -> None:
    base, down, up = torch.eye(2), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    merged = merge_adapter(
        {
            "q.base_layer.weight": base,
            "q.base_layer.bias": torch.ones(2),
            "q.lora_A.default.weight": down,
            "q.lora_B.default.weight": up,
            "norm.weight": torch.ones(2),
        },
        scale=0.5,
    )
    assert merged.keys() == {"q.weight", "q.bias", "norm.weight"}
    torch.testing.assert_close(merged["q.weight"], torch.tensor([[2.5, 3.0], [2.0, 5.0]]))


def exported_by(world_size: int, folder: Path, *models: str, lora: int) -> None:
    command = [sys.executable, str(SCRIPT), str(folder)]
    rest = [str(world_size), str(lora), *models]
    ranks = [subprocess.Popen([*command, str(rank), *rest]) for rank in range(world_size)]
    assert [rank.wait() for rank in ranks] == [0] * world_size


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        assert not found.keys() & tensors.keys(), "a tensor is in two files"
        found |= tensors
    return found


def with_more_files(
    folder: Path, indexed: dict[str, torch.Tensor], not_loaded: dict[str, torch.Tensor]
) -> None:
    """As repositories of several modalities have them, and Mistral's its weights a second time."""
    weights = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")
    weights |= dict.fromkeys(indexed, "more.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    save_file(indexed, folder / "more.safetensors")
    save_file(not_loaded, folder / "consolidated.safetensors")


@pytest.mark.usefixtures("world_of_one")
def test_export_has_what_loading_reads_and_no_second_copy_of_the_weights(tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_tiny_model(str(source))
    own = tensor_names(source)
    beside = {"vision.weight": torch.ones(3)}
    with_more_files(source, beside, {"layers.0.attention.wq.weight": torch.ones(2)})
    export_student(load(str(source)), str(source), Place(tmp_path / "out"))
    assert set(tensors_in(tmp_path / "out")) == own | set(beside)


@pytest.mark.long
@pytest.mark.parametrize("lora", [0, 4])
def test_students_that_all_ranks_write_are_those_that_one_writes_to_the_bit(
    tmp_path: Path, lora: int
) -> None:
    """Tied, untied, and with experts that transformers fuses, beside a tensor that no student of
    this kind has."""
    make_tiny_model(str(tmp_path / "tied"))
    make_tiny_model(str(tmp_path / "untied"), tie_word_embeddings=False)
    models = ["tied", "untied"]
    if not lora:  # adapters of fused experts are refused
        make_experts(str(tmp_path / "experts"))
        models.append("experts")
    beside = {"vision.weight": torch.ones(3)}
    with_more_files(tmp_path / "untied", beside, {"consolidated.weight": torch.ones(2)})
    exported_by(2, tmp_path, *models, lora=lora)
    for name in models:
        whole, shared = (tmp_path / f"{name}-{way}" for way in ("whole", "shared"))
        one, two = tensors_in(whole), tensors_in(shared)
        assert len(list(whole.glob("*.safetensors"))) == 1
        assert {file.name for file in shared.glob("*.safetensors")} == {
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        }
        assert one.keys() == two.keys() == tensor_names(tmp_path / name)
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())
        index = json.loads((shared / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == set(two)
        assert index["metadata"]["total_size"] == sum(one.nbytes for one in two.values())
        assert len(list(shared.glob("*.index.json"))) == 1
        check_weights(shared)
        source = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)
        reloaded = AutoModelForCausalLM.from_pretrained(shared, dtype=torch.float32)
        for key, tensor in reloaded.state_dict().items():
            before = source.state_dict()[key]
            if lora:
                assert before.ndim < 2 or "embed" in key or not torch.equal(tensor, before), key
            else:
                assert torch.equal(tensor, (before * 1.125 + 0.01).bfloat16().float()), key
        if lora:
            files = [folder / ADAPTER / "adapter_model.safetensors" for folder in (whole, shared)]
            first, second = map(load_file, files)
            assert first.keys() == second.keys() and len(first) == 2 * 2 * 7
            assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
