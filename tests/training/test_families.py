"""Families of models whose logits, dropout, buffers or names differ from Llama's: what is trained
is what transformers itself computes in float64, and an export has every tensor of its source."""

from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors import safe_open
from support.learner import load
from transformers import AutoConfig, AutoModelForCausalLM

from fastdistill_ray.errors import UserError
from fastdistill_ray.objectives import AdvDistill
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.export import export_student
from fastdistill_ray.training.knobs import LoraKnobs, OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.learner import Learner, build_learner
from fastdistill_ray.training.packing import packed_batch, plain_batch
from fastdistill_ray.training.packing_check import probe_group
from fastdistill_ray.training.reading import StudentText
from fastdistill_ray.training.student import Student, load_student, to_device

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
FAMILIES = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.3, "attn_pdrop": 0.3},
    "ernie4_5": {},
    "gemma3": {"text_config": SIZES, "vision_config": VISION, "mm_tokens_per_image": 4},
    "granite": {"logits_scaling": 8.0, "attention_multiplier": 0.25},
    "cohere": {"logit_scale": 0.0625},
    "cohere2": {"logit_scale": 0.25},
    "hyperclovax": {"logits_scaling": 0.125},
    "minicpm3": {
        "dim_model_base": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "num_key_value_heads": 4,
    },
    "starcoder2": {"residual_dropout": 0.3, "embedding_dropout": 0.3},
    "seed_oss": {"residual_dropout": 0.3},
    "opt": {"dropout": 0.3, "ffn_dim": 96, "word_embed_proj_dim": 64, "layerdrop": 0.5},
    "gpt_neox": {"hidden_dropout": 0.3},
    "gemma4_text": {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 300},
    "apertus": {},
    "diffllama": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "decoder_sparse_step": 1, **MOE},
    "glm4_moe": {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, **MOE},
}
CPU = torch.device("cpu")


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Random weights and buffers, in bf16, so that an export can equal them to the bit."""
    config = AutoConfig.for_model(request.param, **{**SIZES, **FAMILIES[request.param]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point() and tensor.dtype != torch.float64:
                tensor.add_(0.02 * torch.randn(tensor.shape).to(tensor.dtype))
    model.save_pretrained(tmp_path / "source")
    return str(tmp_path / "source")


@pytest.mark.parametrize("shared_prompt", [True, False], ids=["packed", "plain"])
def test_logprobs_are_those_of_the_models_own_forward_in_float64(folder, shared_prompt):
    group = probe_group(300)
    plain = to_device(plain_batch([group], mask_prompt=True).inputs, CPU)
    packed = to_device(packed_batch([group], 1).inputs, CPU)
    student = load(folder, shared_prompt=shared_prompt)
    try:
        own = student(packed if shared_prompt else plain).logprob
    except TypeError as error:
        pytest.skip(f"refused by the packed check: {error}")
    exact = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, experts_implementation="eager"
    ).eval()
    expected = Student(exact, 300).reference_logprob(plain)
    assert (own - expected).abs().max() < 2e-5 * expected.abs().max()


def test_weights_and_buffers_are_read_as_transformers_reads_them_to_the_bit(folder):
    read = load(folder, shared_prompt=False).model
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = dict([*read.state_dict().items(), *read.named_buffers()])
    wanted = dict([*expected.state_dict().items(), *expected.named_buffers()])
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.usefixtures("world_of_one")
def test_export_of_an_untrained_model_is_its_source_to_the_bit(folder, tmp_path):
    export_student(load(folder), folder, Place(tmp_path / "out"))
    source, exported = (tensors_in(Path(place)) for place in (folder, tmp_path / "out"))
    assert set(exported) == set(source)
    for name, tensor in source.items():
        assert torch.equal(exported[name], tensor), name


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


@pytest.mark.usefixtures("world_of_one")
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        ("qwen3_5_text", {"linear_num_key_heads": 2, "linear_num_value_heads": 2}),
        ("stablelm", {}),
        ("nemotron", {}),
        ("gptj", {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 16}),
    ],
)
def test_family_that_packed_groups_are_wrong_for_is_refused_in_bf16_too(tmp_path, family, changes):
    """Attention sinks, recurrent layers, attention of their own."""
    config = AutoConfig.for_model(family, **{**SIZES, **changes})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"student {family}.*set training.shared_prompt: false"):
        build(str(tmp_path), shared_prompt=True)


@pytest.mark.usefixtures("world_of_one")
def test_family_without_attention_but_eager_trains_plain(tmp_path):
    changes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 16}
    config = AutoConfig.for_model("gptj", **{**SIZES, **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    build(str(tmp_path), shared_prompt=False)


def build(folder: str, *, shared_prompt: bool) -> Learner:
    return build_learner(
        folder=folder,
        vocab_size=300,
        text=cast(StudentText, None),
        device=CPU,
        objective=AdvDistill(),
        optimizer=OptimizerKnobs(),
        training=TrainingKnobs(shared_prompt=shared_prompt),
        advantage=AdvantageKnobs(),
    )


def test_logits_made_in_another_way_are_refused(tmp_path, monkeypatch):
    config = AutoConfig.for_model("llama", **SIZES)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    forward = type(AutoModelForCausalLM.from_config(config)).forward

    def squared(self, *arguments, **options):
        found = forward(self, *arguments, **options)
        found.logits = found.logits.square()
        return found

    monkeypatch.setattr("transformers.LlamaForCausalLM.forward", squared)
    with pytest.raises(UserError, match=r"student llama: its logits are not those of its head"):
        load(str(tmp_path))


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_adapter_of_fused_experts_is_refused_and_one_of_attention_is_exported_whole(
    tmp_path, family, world_of_one
):
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family]})
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "s")
    source = str(tmp_path / "s")
    lora = LoraKnobs(rank=2, target_modules=".*(experts|q_proj).*")
    with pytest.raises(UserError, match=r"training\.lora\.target_modules: "):
        load_adapted(source, lora)
    lora = LoraKnobs(rank=2, target_modules=".*(q_proj|o_proj)")
    student = load_adapted(source, lora)
    export_student(student, source, Place(tmp_path / "out"))
    exported, before = tensors_in(tmp_path / "out"), tensors_in(Path(source))
    assert set(exported) == set(before)
    assert all(torch.equal(exported[name], tensor) for name, tensor in before.items())


def load_adapted(source: str, lora: LoraKnobs) -> Student:
    return load_student(
        source, vocab_size=300, device=CPU, shared_prompt=True, trains_router=True, lora=lora
    )
