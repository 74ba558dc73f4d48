"""The loss of a mixture of experts' choices, against transformers' own function in float64."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.experts import COEFFICIENT, exact_loss, exact_model, make_experts
from support.jobs import tiny_recipe
from support.learner import CPU, make_learner, make_row
from support.packing import pack_groups
from support.processes.ranks import DEALS, WORLD_SIZE, make_groups
from transformers import AutoConfig

from benchmarks.families import FAMILIES
from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run import student_checks
from fastdistill_ray.training import student as student_module
from fastdistill_ray.training import trial
from fastdistill_ray.training.knobs import LoraKnobs, OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.memory import estimate_memory
from fastdistill_ray.training.packing import packed_batch, plain_batch
from fastdistill_ray.training.packing_check import probe_group
from fastdistill_ray.training.reading import prepare_group
from fastdistill_ray.training.step import COUNTS, backward
from fastdistill_ray.training.student import Student, load_student, to_device

OBJECTIVE = '{"kind": "advdistill"}'


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return make_experts(str(tmp_path / "model"))


def load_exactly(folder: str, *, shared_prompt: bool) -> Student:
    loaded = load_student(
        folder,
        vocab_size=10**6,
        device=CPU,
        shared_prompt=shared_prompt,
        trains_router=True,
        lora=LoraKnobs(),
    ).double()
    loaded.model.config._experts_implementation = "eager"
    return loaded


def test_padded_rows_have_the_loss_of_transformers_own_forward(folder: str) -> None:
    rows = plain_batch([probe_group(250), probe_group(250, seed=1)], mask_prompt=True).inputs
    assert (rows.group < 0).any()
    own = load_exactly(folder, shared_prompt=False)(to_device(rows, CPU)).router
    expected = exact_model(folder)(
        input_ids=torch.from_numpy(rows.input_ids),
        attention_mask=torch.from_numpy(rows.group >= 0).long(),
        output_router_logits=True,
    ).aux_loss
    assert own is not None
    assert own.item() == pytest.approx(expected.item(), rel=1e-6)


def test_packed_rows_have_that_of_every_prompt_once(folder: str) -> None:
    groups = [probe_group(250), probe_group(250, seed=1)]
    packed = packed_batch(groups, 128).inputs
    assert (packed.group < 0).any()
    own = load_exactly(folder, shared_prompt=True)(to_device(packed, CPU)).router
    model = exact_model(folder)
    assert own is not None
    assert own.item() == pytest.approx(exact_loss(model, groups, once=True).item(), rel=1e-6)
    assert own.item() != pytest.approx(exact_loss(model, groups, once=False).item(), rel=1e-3)


@pytest.mark.usefixtures("world_of_one")
@pytest.mark.parametrize("shared_prompt", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_step_trains_the_mean_over_tokens_of_its_micro_batches_losses(
    folder: str, shared_prompt: bool, activation_checkpointing: bool
) -> None:
    knobs = {"shared_prompt": shared_prompt, "activation_checkpointing": activation_checkpointing}
    found = {}
    for router_loss in (True, False):
        learner = make_learner(folder, router_loss=router_loss, **knobs)
        groups = [
            group
            for row in make_row(folder, 0, num_groups=3)["groups"]
            for group in prepare_group(
                *(row, learner.text, learner.objective),
                advantage=learner.advantage,
                max_seq_len=512,
            )
        ]
        members = [groups[:1], groups[1:]]  # of two micro-batches of different sizes
        batches = [
            packed_batch(some, 1) if shared_prompt else plain_batch(some, True) for some in members
        ]
        counts = {name: sum(batch.counts[name] for batch in batches) for name in COUNTS}
        terms = {term.name: term for term in backward(learner, batches, counts)}
        named = learner.student.model.named_parameters()
        found[router_loss] = terms, {name: one.grad.full_tensor() for name, one in named}
    model = exact_model(folder)
    sizes = [batch.counts["unique_tokens"] for batch in batches]
    losses = [exact_loss(model, some, once=shared_prompt) for some in members]
    expected = sum(size / sum(sizes) * loss for size, loss in zip(sizes, losses, strict=True))
    (COEFFICIENT * expected).backward()
    (terms, gradients), (others, without) = found[True], found[False]
    assert set(terms) - set(others) == {"router"}
    assert terms["router"].coefficient == COEFFICIENT
    assert terms["router"].total == pytest.approx(expected.item(), rel=1e-5)
    for name, one in model.named_parameters():
        if one.grad is None:
            continue
        difference = (gradients[name] - without[name] - one.grad).abs().max()
        assert difference <= 1e-4 * one.grad.abs().max() + 1e-6 * gradients[name].abs().max(), name


@pytest.mark.long
def test_two_ranks_train_the_mean_over_all_their_micro_batches(tmp_path: Path) -> None:
    folder = make_experts(str(tmp_path / "experts"))
    out = tmp_path / "found.pt"
    script = str(Path(__file__).parents[1] / "support" / "processes" / "ranks.py")
    ranks = [
        subprocess.Popen(
            [
                *(sys.executable, script, str(tmp_path), str(rank), str(out)),
                *(str(WORLD_SIZE), "1", "experts", OBJECTIVE),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for rank in range(WORLD_SIZE)
    ]
    assert [rank.wait() for rank in ranks] == [0] * WORLD_SIZE
    found = torch.load(out)
    groups, model = make_groups(), exact_model(folder)
    for deal, shares in DEALS.items():
        size_and_loss = [
            (batch.counts["unique_tokens"], exact_loss_of(model, batch.parts))
            for share in shares
            for batch in pack_groups(
                [groups[index] for index in share],
                micro_batch_tokens=40,
                shared_prompt=True,
                mask_prompt=True,
            )
        ]
        total = sum(size for size, _ in size_and_loss)
        expected = sum(size / total * loss for size, loss in size_and_loss)
        assert found["experts", OBJECTIVE, deal][2]["router"] == pytest.approx(expected, rel=1e-5)


def exact_loss_of(model, parts) -> float:
    groups = {group.group_id: group for group in make_groups()}
    chosen = [
        groups[part.group_id]._replace(
            completions=groups[part.group_id].completions[part.first : part.first + part.size]
        )
        for part in parts
    ]
    return exact_loss(model, chosen, once=True).item()


@pytest.mark.long
def test_trial_refuses_a_family_whose_loss_is_computed_otherwise(tmp_path, monkeypatch) -> None:
    AutoConfig.for_model("mixtral", **FAMILIES["mixtral"]).save_pretrained(tmp_path)
    options = {"shared_prompt": True, "lora": LoraKnobs(), "on_gpu": False}

    def check(*, trains_router: bool) -> None:
        trial.check_student("student.model", str(tmp_path), trains_router=trains_router, **options)

    check(trains_router=True)
    right = student_module.router_loss
    for wrong in (
        lambda model, logits, mask: 1.01 * right(model, logits, mask),
        lambda model, logits, mask: right(model, logits, mask).detach().requires_grad_(),
        lambda model, logits, mask: right(model, logits[:1], mask),
    ):
        monkeypatch.setattr(student_module, "router_loss", wrong)
        with pytest.raises(UserError, match=r"mixtral.* router's.*training.router_loss: false"):
            check(trains_router=True)
        check(trains_router=False)


def test_doge_whose_loss_is_another_is_refused_only_where_it_has_experts(tmp_path) -> None:
    options = {"shared_prompt": False, "trains_router": True, "lora": LoraKnobs(), "on_gpu": False}
    changes = {"num_experts": 16, "num_experts_per_tok": 2}
    for is_moe in (False, True):
        AutoConfig.for_model("doge", is_moe=is_moe, **changes).save_pretrained(tmp_path)
        if is_moe:
            with pytest.raises(UserError, match=r"doge.*training\.router_loss: false$"):
                trial.check_student("student.model", str(tmp_path), **options)
        else:
            trial.check_student("student.model", str(tmp_path), **options)


def test_loss_that_is_not_trained_is_said(tmp_path, folder, caplog) -> None:
    def check(**training: object) -> str:
        caplog.clear()
        changes = {"student": {"model": folder}, "training": training}
        student_checks.check_students(Recipe.model_validate(tiny_recipe(folder, **changes)))
        return caplog.text

    caplog.set_level(logging.WARNING)
    assert not check()
    assert "student.model: " in (said := check(router_loss=False))
    assert "coefficient: 0.25): training.router_loss is false" in said


def test_memory_plan_counts_what_the_loss_keeps(folder: str) -> None:
    with_loss, without = (
        estimate_memory(
            folder,
            TrainingKnobs(router_loss=router_loss),
            OptimizerKnobs(),
            workers=1,
            device="cpu",
        )
        for router_loss in (True, False)
    )
    assert with_loss.activations > without.activations
