"""The stages of each method on a tiny model: kinds, resumption, and what a changed field renews."""

import json
from pathlib import Path

import pytest
import torch
from support.models import make_tiny_model
from transformers import AutoModelForCausalLM

from fastdistill_ray.condensing import stages as stages_module
from fastdistill_ray.condensing.dilm import read_pool
from fastdistill_ray.condensing.encoder import Encoder, read_embeddings, read_scale
from fastdistill_ray.condensing.generator import PROMPT, Generator
from fastdistill_ray.condensing.glad import prior_of
from fastdistill_ray.condensing.knobs import METHODS, Dilm, EncoderKnobs
from fastdistill_ray.condensing.texts import read_texts
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.condense import CondenseRecipe
from fastdistill_ray.recipe.loading import parse_shape
from fastdistill_ray.run.condense import (
    condense_sets,
    embed_texts,
    prepare_texts,
    try_sets,
    write_condensed,
)
from fastdistill_ray.run.condense_stages import CondenseStages, describe_condensing
from fastdistill_ray.run.folder import JobFolder
from fastdistill_ray.storage.place import Place

SMALL = {
    "dataset_distillation": {"iterations": 5},
    "mtt": {"iterations": 5, "experts": 2, "max_start": 2},
    "glad": {"iterations": 3},
    "dilm": {"lm_steps": 3, "lm_batch": 4, "steps": 2, "batch": 3, "pool": 8, "frozen_blocks": 1},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(str(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def generated(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of DiLM."""
    folder = tmp_path_factory.mktemp("generated")
    run_whole(recipe_of(model, "dilm"), folder)
    return folder


def recipe_of(model: str, kind: str, **changes: object) -> CondenseRecipe:
    method = {"kind": kind, **SMALL[kind]}
    if kind == "dilm":
        # Its random tokens seldom are the one that ends a text.
        method |= {"model": model, "max_new_tokens": 200}
    tree = {
        "name": "tiny",
        "job": "condense",
        "task": {"name": "word_problems", "num_train": 16, "num_test": 8},
        "encoder": {"model": model, "layer": 1},
        "method": method,
        "learners": {"sets": 2, "seeds": 2, "updates": 5},
    }
    for path, value in changes.items():
        section, name = path.split("__")
        tree[section][name] = value
    return parse_shape(tree, "tiny", CondenseRecipe)


def run_whole(recipe: CondenseRecipe, folder: Path) -> dict:
    run = JobFolder(str(folder), recipe)
    texts = prepare_texts(run)
    run.claim()
    embeddings = embed_texts(run, texts)
    sets = condense_sets(run, texts, embeddings)
    write_condensed(run, texts, embeddings, sets, try_sets(run, embeddings, sets))
    return json.loads((folder / "condense.json").read_text())


@pytest.mark.parametrize("kind", METHODS)
def test_every_kind_ends_with_its_page_and_a_second_run_reuses_all_of_it(kind, model, tmp_path):
    recipe = recipe_of(model, kind)
    found = run_whole(recipe, tmp_path)
    names = [row["name"] for row in found["accuracy"]]
    assert names[0] == "condensed" and names[-3:] == ["random", "k-centre", "whole data"]
    assert ("before matching" in names) == (kind == "dilm")
    assert ("condensed, own steps" in names) == (kind in ("dataset_distillation", "mtt"))
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in found["accuracy"])
    assert [row["sets"] * row["seeds"] for row in found["accuracy"]] == [4] * len(names)
    assert [row["label"] for row in found["texts"]["rows"]] == found["classes"]
    page = (tmp_path / "condense.md").read_text()
    assert METHODS[kind].LABEL in page and "| whole data | 16 |" in page
    lines = describe_condensing(recipe, Place(tmp_path)).splitlines()
    assert {line.split()[1] for line in lines} == {"reused"}
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("stages/**/*.parquet")}
    assert run_whole(recipe, tmp_path) == found
    assert before == {
        file: file.stat().st_mtime_ns for file in tmp_path.glob("stages/**/*.parquet")
    }


def test_killed_while_sets_are_made_it_goes_on_to_equal_numbers(model, tmp_path, monkeypatch):
    recipe = recipe_of(model, "mtt")
    whole = run_whole(recipe, tmp_path / "quiet")

    def killed(*_given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stages_module, "write_sets", killed)
        run_whole(recipe, tmp_path / "killed")
    lines = describe_condensing(recipe, Place(tmp_path / "killed")).splitlines()
    assert [line.split()[1] for line in lines] == ["reused", "reused", "to", "new:"]
    assert run_whole(recipe, tmp_path / "killed") == whole


def test_changed_field_renews_what_depends_on_it_and_nothing_else(model, generated):
    def renewed(**changes: object) -> set[str]:
        lines = describe_condensing(recipe_of(model, "dilm", **changes), Place(generated))
        return {line.split()[0] for line in lines.splitlines() if "reused" not in line}

    learned = {"learners/dilm"}
    sets = {"sets/dilm-matched", "sets/dilm-lm"} | learned
    matched = {"generator/matched", "pool/matched", "sets/dilm-matched"} | learned
    assert renewed(learners__updates=6) == learned
    assert renewed(method__per_class=2) == sets
    assert renewed(method__temperature=2.0) == matched
    assert renewed(method__lm_steps=4) == matched | sets | {"generator/lm", "pool/lm"}
    assert "texts" in renewed(task__seed=1)


def test_embedding_is_the_mean_of_a_blocks_output_over_a_texts_own_tokens(model, tmp_path):
    recipe = recipe_of(model, "mtt", encoder__batch_tokens=64)
    run = JobFolder(str(tmp_path), recipe)
    texts = prepare_texts(run)
    embeddings = embed_texts(run, texts)
    train, data = read_texts(texts)["train"], read_embeddings(embeddings)["train"]
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    encoder, rows = Encoder(recipe.encoder), []
    for text in train.texts:
        ids = torch.tensor([[encoder.first, *encoder.tokenizer(text).input_ids]])
        states = whole.model(ids, output_hidden_states=True).hidden_states[1]
        rows.append(states[0, 1:].mean(dim=0).detach())
    points = torch.stack(rows)
    expected = (points - points.mean(dim=0)) / points.std(dim=0, correction=0)
    torch.testing.assert_close(data.points, expected, atol=1e-4, rtol=1e-4)
    assert data.labels.tolist() == train.labels


def test_prior_gives_real_texts_at_full_confidence_and_has_a_gradient(model, tmp_path):
    run = JobFolder(str(tmp_path), recipe_of(model, "mtt"))
    embeddings = embed_texts(run, prepare_texts(run))
    data = read_embeddings(embeddings)["train"]
    texts = read_texts(prepare_texts(run))["train"].texts
    encoder = Encoder(EncoderKnobs(model=model, layer=1))
    prior = prior_of(encoder, read_scale(embeddings), texts)
    latents = [prior.begun(text, 200.0).requires_grad_() for text in texts]
    torch.testing.assert_close(prior(latents), data.points, atol=1e-3, rtol=1e-3)
    assert prior.nearest(latents[0]) == texts[0]
    soft = prior.begun(texts[0], 1.0).requires_grad_()
    prior([soft]).square().sum().backward()
    assert soft.grad is not None and soft.grad.abs().sum() > 0


def test_loss_of_a_generated_text_is_the_mean_over_its_own_tokens(model):
    generator = Generator(Dilm(model=model))
    texts, labels = ["Tom has 4 pens.", "There are 5 boxes with 6 eggs."], ["add", "multiply"]
    found = generator.losses(texts, labels)
    for loss, text, label in zip(found, texts, labels, strict=True):
        prompt = generator.tokenizer(PROMPT.format(label=label)).input_ids
        ids = [*prompt, *generator.tokenizer(f" {text}").input_ids]
        ids = torch.tensor([[*ids, generator.tokenizer.eos_token_id]])
        logprobs = generator.model(ids).logits[0, :-1].log_softmax(dim=-1)
        own = [-logprobs[place - 1, ids[0, place]] for place in range(len(prompt), ids.shape[1])]
        torch.testing.assert_close(loss, torch.stack(own).mean())


def test_generator_trains_what_is_not_frozen_and_goes_on_from_what_it_kept(model, generated):
    recipe = recipe_of(model, "dilm")
    stages, run = CondenseStages(recipe, Place(generated)), JobFolder(str(generated), recipe)
    assert isinstance(recipe.method, Dilm)
    start = Generator(recipe.method)
    lm = Generator(recipe.method, run.folder(stages.generator("lm")))
    matched = Generator(recipe.method, run.folder(stages.generator("matched")))
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in lm.trained)
    moved = {
        name
        for name, tensor in start.model.state_dict().items()
        if not torch.equal(tensor, lm.model.state_dict()[name])
    }
    assert moved == set(lm.trained)
    assert any(not torch.equal(one, matched.trained[name]) for name, one in lm.trained.items())
    written, made = read_pool(run.folder(stages.pool("lm")))
    assert len(written) == len(made.labels) <= 8 * 4 and all(written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {"kind": "mmt"}}, "method: .*'mmt'"),
        (
            {"method": {"kind": "mtt", "iteration": 3}},
            "method.iteration: unknown key, did you mean",
        ),
        ({"method": {"kind": "mtt", "per_class": 0}}, "method.per_class: "),
        (
            {"method": {"kind": "dilm", "model": "m", "pool": 8, "per_class": 9}},
            "pool: 8 texts cannot give per_class 9 of a class",
        ),
        ({"job": "distill"}, "job: it is a recipe of `fastdistill distill`"),
    ],
)
def test_recipe_that_is_wrong_is_one_line(model, changes, message):
    tree = recipe_of(model, "mtt").model_dump() | changes
    with pytest.raises(UserError, match=message):
        parse_shape(tree, "tiny", CondenseRecipe)


def test_pool_of_as_many_texts_as_a_set_has_of_a_class_is_enough(model):
    method = Dilm(model=model, pool=101, per_class=101)
    assert (method.before_matching.pool, method.before_matching.per_class) == (100, 1)


def test_encoder_without_that_block_is_one_line(model):
    with pytest.raises(UserError, match=r"encoder\.layer: 3, but .* has 2 blocks"):
        Encoder(EncoderKnobs(model=model, layer=3))
