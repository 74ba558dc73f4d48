"""Models that people have by halves: refused by the checks before anything is paid, in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.jobs import tiny_recipe
from support.models import make_tiny_model

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run import doctor
from fastdistill_ray.tasks import load_problems

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def put(name: str, text: str) -> Callable[[Path], object]:
    return lambda model: (model / name).write_text(text)


def without(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).unlink()


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:size])


def changed(**fields: object) -> Callable[[Path], object]:
    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        config = {name: value for name, value in {**config, **fields}.items() if value is not None}
        (model / "config.json").write_text(json.dumps(config))

    return change


def sharded(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    files = {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
    }
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


MODELS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no folder": (shutil.rmtree, ["no such file or folder"]),
    "no config": (without("config.json"), ["config.json"]),
    "config is no json": (put("config.json", "{torn"), ["config.json"]),
    "config is empty": (put("config.json", ""), ["config.json"]),
    "config is a list": (put("config.json", "[]"), ["config.json"]),
    "config of nothing": (put("config.json", "{}"), ["config.json", "model_type"]),
    "config is a pointer": (put("config.json", LFS), ["config.json"]),
    "unknown model": (changed(model_type="llamma"), ["llamma"]),
    "no language model": (changed(model_type="vit", architectures=["ViTModel"]), ["vit"]),
    "layers in words": (changed(num_hidden_layers="two"), ["config.json"]),
    "no tokenizer": (without("tokenizer.json"), ["tokenizer"]),
    "tokenizer torn": (cut("tokenizer.json", 500), ["tokenizer"]),
    "tokenizer is a pointer": (put("tokenizer.json", LFS), ["tokenizer"]),
    "no template": (without("chat_template.jinja"), ["no chat template"]),
    "template empty": (put("chat_template.jinja", ""), ["no chat template"]),
    "template torn": (put("chat_template.jinja", "{% for m in messages %}"), ["chat template"]),
    "template raises": (
        put("chat_template.jinja", "{{ raise_exception('no system text') }}"),
        ["chat template", "no system text"],
    ),
    "template of another": (
        put("chat_template.jinja", "{{ messages[0].parts[0].text.strip() }}"),
        ["chat template"],
    ),
    "template ignores": (put("chat_template.jinja", "Hello"), ["chat template", "leaves out"]),
    "no weights": (without("model.safetensors"), ["model.safetensors"]),
    "weights empty": (cut("model.safetensors", 0), ["model.safetensors"]),
    "weights cut in the header": (cut("model.safetensors", 100), ["model.safetensors"]),
    "weights cut": (cut("model.safetensors", 50_000), ["model.safetensors"]),
    "weights are a pointer": (put("model.safetensors", LFS), ["model.safetensors", "git lfs pull"]),
    "weights are no such": (put("model.safetensors", "weights" * 99), ["model.safetensors"]),
    "a shard is missing": (sharded, ["model-00002-of-00002.safetensors"]),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_tiny_model(str(tmp_path_factory.mktemp("whole") / "model")))


def check(model: Path) -> None:
    recipe = Recipe.model_validate(tiny_recipe(str(model)))
    doctor.check_models(recipe)
    doctor.check_templates(recipe)
    doctor.check_prompts(recipe, load_problems(recipe.task))


def test_whole_model_is_taken(whole):
    check(whole)


@pytest.mark.parametrize("name", MODELS, ids=lambda name: name.replace(" ", "_"))
def test_model_that_is_not_whole_is_refused_naming_it(name, whole, tmp_path):
    spoil, words = MODELS[name]
    model = Path(shutil.copytree(whole, tmp_path / "model"))
    spoil(model)
    with pytest.raises(UserError) as refused:
        check(model)
    line = str(refused.value)
    assert "\n" not in line and len(line) < 700, line
    assert [word for word in [str(model), *words] if word not in line] == [], line


@pytest.mark.parametrize("text", ["", "GGUF", LFS, "no gguf at all " * 99])
def test_gguf_that_is_none_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDISTILL_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_text(text)
    with pytest.raises(UserError, match=r"model\.gguf") as refused:
        check(file)
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "cache").glob("model*"))
