"""A model of chosen blocks computes what those blocks compute, by transformers alone."""

from pathlib import Path

import pytest
import torch
from support.jobs import tiny_recipe
from support.models import make_tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fastdistill_ray.cutting import cut_model
from fastdistill_ray.errors import UserError
from fastdistill_ray.models import LAYERS, fetch_model, folder_at_hand, is_here, model_identity
from fastdistill_ray.recipe.derived import baselines, students
from fastdistill_ray.recipe.loading import parse_recipe

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def by_hand(folder: str, layers: list[int]) -> torch.Tensor:
    """The blocks in turn, called one by one on the model's own embedding, under its own head."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    backbone = model.model
    hidden = backbone.embed_tokens(IDS)
    positions = torch.arange(IDS.shape[1])[None]
    rotary = backbone.rotary_emb(hidden, positions)
    causal = torch.full((IDS.shape[1],) * 2, -1e9).triu(1)[None, None]
    with torch.no_grad():
        for layer in layers:
            found = backbone.layers[layer](
                hidden, attention_mask=causal, position_embeddings=rotary
            )
            hidden = found[0] if isinstance(found, tuple) else found
        return model.lm_head(backbone.norm(hidden))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDISTILL_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("is_tied", [True, False])
def test_cut_model_is_the_chosen_blocks_one_after_the_other(tmp_path: Path, is_tied: bool):
    folder = make_tiny_model(str(tmp_path / "m"), tie_word_embeddings=is_tied, num_layers=5)
    reference = f"{folder}{LAYERS}0,2,4"
    assert folder_at_hand(reference) is None
    cut = fetch_model(reference)
    assert cut == fetch_model(reference) == folder_at_hand(reference) and is_here(reference)
    model = AutoModelForCausalLM.from_pretrained(cut, attn_implementation="eager").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, by_hand(folder, [0, 2, 4]))
    assert model.config.num_hidden_layers == len(model.model.layers) == 3
    assert AutoTokenizer.from_pretrained(cut).chat_template
    others = [f"{folder}{LAYERS}0,2", folder]
    assert model_identity(reference) not in map(model_identity, others)


def test_cut_model_keeps_what_its_config_says_of_each_layer(tmp_path: Path):
    """Windows of layers 0, 2, 4 are 8 tokens, those of the others have none."""
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 6, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    kinds = ["sliding_attention", "full_attention"] * 3
    config = AutoConfig.for_model("gemma2", **shape, **heads, layer_types=kinds, sliding_window=8)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    cut_model(str(tmp_path / "m"), [1, 2, 5], tmp_path / "out")
    found = AutoConfig.from_pretrained(tmp_path / "out")
    assert found.layer_types == ["full_attention", "sliding_attention", "full_attention"]


def test_blocks_that_are_not_there_are_refused(tmp_path: Path):
    folder = make_tiny_model(str(tmp_path / "m"))
    with pytest.raises(UserError, match=r"student.init.layers: 2 is no block of .*has 0 to 1"):
        fetch_model(f"{folder}{LAYERS}0,2")
    for layers in ([1, 0], [0, 0], [-1]):
        with pytest.raises(UserError, match=r"student.init.layers"):
            parse_recipe(tiny_recipe(folder, student={"init": {"layers": layers}}), "x")


def test_every_student_and_the_base_begin_as_the_chosen_blocks(tmp_path: Path):
    compare = {"students": [{"kind": "sft"}, {"kind": "sft", "name": "own", "model": "org/own"}]}
    student = {"model": "org/small", "init": {"layers": [0, 3]}}
    recipe = parse_recipe(tiny_recipe("org/big", student=student, compare=compare), "x")
    models = [one.model for one in students(recipe)]
    assert models == ["org/small#layers=0,3", "org/small#layers=0,3", "org/own"]
    assert [one.weights for one in baselines(recipe)] == ["org/small#layers=0,3", "org/big"]
