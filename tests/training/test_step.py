"""Updates of one rank in this process (gloo, a world of one)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.learner import losses, make_learner, make_row
from support.models import make_tiny_model
from torch._dynamo import config as dynamo
from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam
from transformers import AutoModelForCausalLM

from fastdistill_ray.errors import UserError
from fastdistill_ray.training.knobs import OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.memory import estimate_memory
from fastdistill_ray.training.packing import packed_batch
from fastdistill_ray.training.packing_check import probe_group
from fastdistill_ray.training.sharding import RECOMPILE_LIMIT, compilation, prefetch_next
from fastdistill_ray.training.step import (
    learning_rate_at,
    make_batches,
    train_step,
)
from fastdistill_ray.training.student import to_device

pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return make_tiny_model(str(tmp_path / "model"), tie_word_embeddings=request.param)


@pytest.mark.parametrize(
    "training",
    [
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "activation_offload": True},
        {"cpu_offload": True},
        {"micro_batch_tokens": 1},
        {"shared_prompt": False},
        {"shared_prompt": False, "micro_batch_tokens": 1},
    ],
)
def test_knobs_of_memory_and_layout_do_not_change_the_training(
    folder: str, training: dict[str, object]
) -> None:
    expected = losses(make_learner(folder), folder, range(3))
    actual = losses(make_learner(folder, **training), folder, range(3))
    np.testing.assert_allclose(actual, expected, rtol=2e-4)
    assert expected[-1] != expected[0]


def test_prefetched_blocks_train_the_same(folder: str) -> None:
    learner = make_learner(folder)
    prefetch_next(list(learner.student.model.model.layers))
    assert losses(learner, folder, range(3)) == losses(make_learner(folder), folder, range(3))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_compiled_blocks_train_alike_whatever_the_lengths(
    folder: str, activation_checkpointing: bool
) -> None:
    learner = make_learner(folder, compile=True, activation_checkpointing=activation_checkpointing)
    with compilation(learner.training):
        actual = losses(learner, folder, range(3))
    np.testing.assert_allclose(actual, losses(make_learner(folder), folder, range(3)), rtol=2e-4)


def test_compilation_and_slices_leave_torch_as_it_was(folder: str) -> None:
    limit, method = dynamo.recompile_limit, FSDPParam.accumulate_unsharded_grad_if_needed
    knobs = TrainingKnobs(compile=True, activation_checkpointing=True)
    with pytest.raises(KeyError), compilation(knobs):
        assert dynamo.recompile_limit == RECOMPILE_LIMIT > limit
        make_learner(folder)
        raise KeyError
    assert dynamo.recompile_limit == limit
    assert FSDPParam.accumulate_unsharded_grad_if_needed is method


@pytest.mark.parametrize("names", [None, [], ["Renamed"]])
def test_student_whose_blocks_have_no_known_class_is_refused(
    folder: str, monkeypatch: pytest.MonkeyPatch, names: list[str] | None
) -> None:
    """By training and by the estimate of its memory: it would be gathered whole."""
    monkeypatch.setattr("transformers.LlamaPreTrainedModel._no_split_modules", names)
    with pytest.raises(UserError, match=r"no decoder blocks of model type 'llama'.*; take a model"):
        make_learner(folder)
    with pytest.raises(UserError, match=r"no decoder blocks of model type 'llama'"):
        estimate_memory(folder, TrainingKnobs(), OptimizerKnobs(), workers=1, device="cuda")


def test_bf16_training_follows_fp32_and_keeps_fp32_weights(folder: str) -> None:
    learner = make_learner(folder, precision="bf16")
    actual = losses(learner, folder, range(3))
    np.testing.assert_allclose(actual, losses(make_learner(folder), folder, range(3)), rtol=0.05)
    assert {one.dtype for one in learner.student.parameters()} == {torch.float32}


def test_gradients_of_micro_batches_are_added_without_float32_copies_of_them(
    tmp_path: Path,
) -> None:
    folder, rows, width = make_tiny_model(str(tmp_path), tie_word_embeddings=False), 40_000, 64
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    learner = make_learner(folder, precision="bf16", micro_batch_tokens=64)
    row = make_row(folder, 0, num_groups=4)
    assert len(make_batches(learner, row["groups"])) == 4
    with torch.profiler.profile(profile_memory=True) as profile:
        train_step(learner, row, 10)
    taken = [
        event.nbytes()
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    # Of head and embedding: sums over micro-batches, both sides of their reduction, two moments.
    assert taken.count(4 * rows * width) == 2 * 5


def test_flex_mask_passes_through_sharded_blocks(folder: str) -> None:
    learner = make_learner(folder, precision="bf16")
    inputs = to_device(packed_batch([probe_group(300)], 1).inputs, learner.device)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = learner.student(inputs).logprob
        learner.student.model.set_attn_implementation("flex_attention")
        actual = learner.student(inputs).logprob
    assert (actual - expected).abs().max() < 0.05


def test_step_without_groups_trains_nothing_and_reports_zero(folder: str) -> None:
    learner = make_learner(folder)
    metrics = train_step(learner, {**make_row(folder, 0), "groups": [], "num_groups": 1}, 10)
    assert metrics["train/loss"] == metrics["train/grad_norm"] == 0.0
    assert (metrics["train/num_groups"], metrics["train/empty_groups"]) == (0, 1)


def test_step_with_a_bad_weight_stops_before_the_update_and_names_the_step(folder: str) -> None:
    learner = make_learner(folder)
    with torch.no_grad():
        learner.student.model.model.norm.weight.mul_(float("nan"))
    before = learner.student.model.model.layers[0].mlp.up_proj.weight.full_tensor().clone()
    with pytest.raises(UserError, match="stopped at step 8"):
        train_step(learner, make_row(folder, 7), 10)
    after = learner.student.model.model.layers[0].mlp.up_proj.weight.full_tensor()
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_learning_rate_warms_up_and_follows_the_schedule(
    schedule: str, expected: list[float]
) -> None:
    knobs = OptimizerKnobs(learning_rate=1.0, warmup_ratio=0.3, schedule=schedule)
    rates = [learning_rate_at(step, 6, knobs) for step in range(6)]
    assert rates == pytest.approx(expected, abs=1e-6)
