"""Updates, checkpoints and exports of one rank in this process (gloo, a world of one)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from support.learner import KNOBS, losses, make_learner, make_row
from support.models import make_tiny_model
from torch._dynamo import config as dynamo
from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastdistill_ray.errors import UserError
from fastdistill_ray.training.checkpoints import (
    CheckpointWriter,
    TrainProgress,
    load_checkpoint,
    load_weights,
)
from fastdistill_ray.training.export import ADAPTER, export_student, merge_adapter
from fastdistill_ray.training.knobs import LoraKnobs, OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.learner import Learner, build_optimizer
from fastdistill_ray.training.memory import estimate_memory
from fastdistill_ray.training.sharding import RECOMPILE_LIMIT, compilation, prefetch_next
from fastdistill_ray.training.step import (
    learning_rate_at,
    make_batches,
    train_step,
)
from fastdistill_ray.training.worker import check_student

pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return make_tiny_model(str(tmp_path / "model"), tie_word_embeddings=request.param)


@pytest.mark.parametrize(
    "lora", [LoraKnobs(), LoraKnobs(rank=4, dropout=0.3)], ids=["full", "lora"]
)
def test_training_resumed_from_a_checkpoint_has_identical_following_losses(
    folder: str, tmp_path: Path, lora: LoraKnobs
) -> None:
    first = make_learner(folder, lora=lora)
    losses(first, folder, range(2))
    saved = str(tmp_path / "checkpoint")
    writer, progress = CheckpointWriter(), TrainProgress(2, 10, 1, -0.5, 1)
    saving = writer.start(first.student, first.optimizer, progress, saved)
    expected = losses(first, folder, range(2, 5))  # while the copy is written
    saving.result()
    second = make_learner(folder, lora=lora)
    assert load_checkpoint(second.student, second.optimizer, saved) == progress
    assert losses(second, folder, range(2, 5)) == expected


def test_weights_of_a_checkpoint_come_back_after_later_steps(folder: str, tmp_path: Path) -> None:
    learner = make_learner(folder)
    losses(learner, folder, range(2))
    export_student(learner.student, folder, tmp_path / "then")
    writer = CheckpointWriter()
    for step in (2, 3):  # the second waits for the first
        writer.start(learner.student, learner.optimizer, TrainProgress(2, 9), tmp_path / f"{step}")
        losses(learner, folder, range(step, step + 1))
    writer.wait()
    load_weights(learner.student, tmp_path / "2")
    export_student(learner.student, folder, tmp_path / "again")
    then, again = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("then", "again")
    )
    assert all(torch.equal(then[name], again[name]) for name in then)


def test_moments_of_eight_bits_train_alike_and_resume_with_identical_losses(
    folder: str, tmp_path: Path
) -> None:
    pytest.importorskip("torchao")
    knobs = KNOBS.model_copy(update={"kind": "adamw8bit"})

    def eight_bit() -> Learner:
        learner = make_learner(folder)
        return learner._replace(optimizer=build_optimizer(learner.student, knobs))

    exact = losses(make_learner(folder), folder, range(3))
    with torch.compiler.set_stance("force_eager"):
        first = eight_bit()
        assert losses(first, folder, range(3)) == [pytest.approx(one, rel=2e-3) for one in exact]
        kinds = {
            type(v._local_tensor)
            for one in first.optimizer.state.values()
            for v in one.values()
            if hasattr(v, "_local_tensor")
        }
        assert any("8bit" in kind.__name__ for kind in kinds), kinds
        writer = CheckpointWriter(is_async=False)
        writer.start(first.student, first.optimizer, TrainProgress(3, 10), tmp_path / "saved")
        expected = losses(first, folder, range(3, 5))
        second = eight_bit()
        load_checkpoint(second.student, second.optimizer, str(tmp_path / "saved"))
        assert losses(second, folder, range(3, 5)) == expected


@pytest.mark.parametrize(
    "training",
    [
        {"activation_checkpointing": True},
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
        check_student(learner)
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
    check_student(learner)
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
    # Sums over micro-batches and two moments, of head and embedding.
    assert taken.count(4 * rows * width) == 2 * 3


def test_flex_mask_passes_through_sharded_blocks(folder: str) -> None:
    learner = make_learner(folder, precision="bf16")
    learner.student.model.set_attn_implementation("flex_attention")
    with torch.compiler.set_stance("force_eager"):
        check_student(learner)


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
