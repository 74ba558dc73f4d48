import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.models import make_tiny_model, write_gguf
from transformers import LlamaForCausalLM

from fastdistill_ray.models import (
    LAYERS,
    context_length,
    fetch_model,
    fetch_without_weights,
    folder_at_hand,
    is_here,
    load_tokenizer,
    model_identity,
    model_size,
    reference_for_others,
    resolve_model,
    same_tokenizer,
    tokenizer_of,
)
from fastdistill_ray.storage.folders import copy
from fastdistill_ray.storage.place import Place


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(str(tmp_path_factory.mktemp("tiny")))


def test_tiny_model_equal_seeds_give_equal_weights(tiny: str, tmp_path: Path) -> None:
    again = load_file(f"{make_tiny_model(str(tmp_path / 'same'), seed=0)}/model.safetensors")
    other = load_file(f"{make_tiny_model(str(tmp_path / 'other'), seed=1)}/model.safetensors")
    first = load_file(f"{tiny}/model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_resolve_model_of_folder_is_its_absolute_path(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(tiny).parent)
    assert resolve_model(Path(tiny).name) == tiny
    assert fetch_model(tiny) == tiny


def test_resolve_model_of_hub_id_is_left_as_it_is() -> None:
    assert resolve_model("Qwen/Qwen2.5-7B-Instruct") == "Qwen/Qwen2.5-7B-Instruct"


def test_others_have_a_model_by_its_hub_id_or_from_its_folder(tiny: str) -> None:
    assert reference_for_others("Qwen/Qwen2.5-7B-Instruct") == "Qwen/Qwen2.5-7B-Instruct"
    assert reference_for_others(tiny) == tiny
    kept = reference_for_others(f"{tiny}{LAYERS}0")
    assert Path(kept, "config.json").is_file() and kept != tiny


@pytest.mark.parametrize(
    "reference",
    ["nope", "./models/nope", "/no/such/folder", "a/b/c", "nope.gguf", "org/x.gguf"],
)
def test_resolve_model_of_missing_path_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="no such file or folder, and not a hub id") as error:
        resolve_model(reference)
    assert "\n" not in str(error.value)


def test_resolve_model_of_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        resolve_model(str(tmp_path))


def test_resolve_model_of_other_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a file must be \.gguf"):
        resolve_model(str(file))


def test_resolve_model_of_broken_gguf_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDISTILL_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="transformers cannot read it"):
        resolve_model(str(file))
    assert os.listdir(tmp_path / "cache") == ["digests"]


@pytest.mark.parametrize("tie_word_embeddings", [True, False])
def test_resolve_model_of_gguf_gives_the_same_model(
    tie_word_embeddings: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDISTILL_CACHE", str(tmp_path / "cache"))
    source = make_tiny_model(str(tmp_path / "source"), tie_word_embeddings=tie_word_embeddings)
    folder = resolve_model(write_gguf(source, str(tmp_path / "tiny.gguf")))
    expected = load_file(f"{source}/model.safetensors")
    converted = load_file(f"{folder}/model.safetensors")
    assert converted.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(converted[name], weight.bfloat16()), name
    ids = torch.tensor([load_tokenizer(folder).encode("Tom has 4 pens.")])
    assert ids.tolist() == [load_tokenizer(source).encode("Tom has 4 pens.")]
    reference = LlamaForCausalLM.from_pretrained(source)(ids).logits
    logits = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
    torch.testing.assert_close(logits, reference, atol=0.02, rtol=0.02)  # bf16 weights
    assert load_tokenizer(folder).chat_template


def test_converted_model_generation_config_has_no_sampling_defaults(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDISTILL_CACHE", str(tmp_path / "cache"))
    folder = resolve_model(write_gguf(tiny, str(tmp_path / "tiny.gguf")))
    written = json.loads((Path(folder) / "generation_config.json").read_text())
    written.pop("transformers_version")
    assert written == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.mark.long
def test_gguf_conversion_of_two_processes_at_once_gives_one_folder(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDISTILL_CACHE", str(tmp_path / "cache"))
    file = write_gguf(tiny, str(tmp_path / "tiny.gguf"))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        folders = pool.map(resolve_model, [file] * 2, chunksize=1)
    assert folders[0] == folders[1] == resolve_model(file)
    assert sorted(os.listdir(tmp_path / "cache")) == ["digests", Path(folders[0]).name]


def test_gguf_conversion_of_changed_file_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDISTILL_CACHE", str(tmp_path / "cache"))
    file = str(tmp_path / "tiny.gguf")
    folders = [
        resolve_model(write_gguf(make_tiny_model(str(tmp_path / str(seed)), seed=seed), file))
        for seed in (0, 1)
    ]
    assert folders[0] != folders[1]


def test_model_in_a_bucket_is_downloaded_without_weights_until_these_are_asked_for(
    bucket: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDISTILL_CACHE", str(tmp_path / "cache"))
    reference = f"{bucket}/tiny"
    copy(Place(tiny), Place(reference))
    small = Path(fetch_without_weights(reference))
    assert not is_here(reference) and not list(small.glob("*.safetensors"))
    assert tokenizer_of(reference).get_vocab() == load_tokenizer(tiny).get_vocab()
    assert model_size(str(small)) == model_size(tiny)
    whole = Path(fetch_model(reference))
    assert whole != small
    for file in Path(tiny).iterdir():
        assert (whole / file.name).read_bytes() == file.read_bytes()
    assert fetch_without_weights(reference) == str(whole)


def test_models_in_a_bucket_are_told_apart_by_their_weights_alone(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDISTILL_CACHE", str(tmp_path / "cache"))
    one, other = (make_tiny_model(str(tmp_path / str(seed)), seed=seed) for seed in (0, 1))

    def weights(reference: str) -> bytes:
        return (Path(fetch_model(reference)) / "model.safetensors").read_bytes()

    for run, model in (("sft", one), ("advdistill", other)):
        copy(Place(model), Place(f"{bucket}/told/{run}/epoch_1"))
    own = Path(one) / "model.safetensors", Path(other) / "model.safetensors"
    assert own[0].stat().st_size == own[1].stat().st_size
    assert weights(f"{bucket}/told/sft/epoch_1") == own[0].read_bytes()
    assert weights(f"{bucket}/told/advdistill/epoch_1") == own[1].read_bytes()
    before = model_identity(f"{bucket}/told/sft/epoch_1")
    (Place(f"{bucket}/told/sft/epoch_1") / "README.md").put("a card that a report writes")
    assert model_identity(f"{bucket}/told/sft/epoch_1") == before
    time.sleep(1.1)  # a bucket's times are whole seconds
    copy(Place(other), Place(f"{bucket}/told/sft/epoch_1"))
    assert model_identity(f"{bucket}/told/sft/epoch_1") != before, "written again, others inside"
    assert weights(f"{bucket}/told/sft/epoch_1") == own[1].read_bytes()


def test_gguf_file_that_was_changed_in_its_middle_is_converted_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDISTILL_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "middle.gguf"
    write_gguf(make_tiny_model(str(tmp_path / "model"), num_layers=30), str(file))
    before, data = resolve_model(str(file)), bytearray(file.read_bytes())
    assert len(data) > 3 << 20
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert resolve_model(str(file)) != before
    assert folder_at_hand(str(file)) == resolve_model(str(file))


def test_same_tokenizer_differs_by_vocabulary_and_by_end_of_turn(tiny: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    assert same_tokenizer(tokenizer, load_tokenizer(make_tiny_model(str(tmp_path), seed=5)))
    extended = load_tokenizer(tiny)
    extended.add_tokens(["brandnew"])
    assert not same_tokenizer(tokenizer, extended)
    ended = load_tokenizer(tiny)
    ended.eos_token = "<|endoftext|>"
    assert not same_tokenizer(tokenizer, ended)


@pytest.mark.parametrize("tie_word_embeddings", [True, False])
def test_model_size_equals_that_of_the_loaded_model(
    tie_word_embeddings: bool, tmp_path: Path
) -> None:
    folder = make_tiny_model(str(tmp_path), tie_word_embeddings=tie_word_embeddings)
    vocabulary, hidden, inner = len(load_tokenizer(folder)), 64, 128
    attention = hidden * hidden * 2 + hidden * 32 * 2
    layer = attention + 3 * hidden * inner + 2 * hidden
    heads = 1 if tie_word_embeddings else 2
    assert model_size(folder) == heads * vocabulary * hidden + 2 * layer + hidden


def test_context_length_is_that_of_the_config(tiny: str) -> None:
    assert context_length(tiny) == 2048


def test_load_tokenizer_of_folder_without_one_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its tokenizer cannot be loaded") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)
