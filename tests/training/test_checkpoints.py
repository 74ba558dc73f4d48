"""Training goes on from a checkpoint as if it had never stopped (one rank, in this process)."""

from collections import namedtuple
from pathlib import Path
from typing import cast

import pytest
import torch
from support.learner import KNOBS, losses, make_learner
from support.models import make_tiny_model
from transformers import AutoModelForCausalLM

from fastdistill_ray.objectives import TinyBert
from fastdistill_ray.prompts import Prompted, PromptKnobs
from fastdistill_ray.storage.folders import readable_folder
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.checkpoints import (
    CheckpointWriter,
    TrainProgress,
    keep_checkpoint,
    load_checkpoint,
    load_weights,
)
from fastdistill_ray.training.export import export_student, tensor_names
from fastdistill_ray.training.knobs import LoraKnobs
from fastdistill_ray.training.learner import Learner, build_optimizer

pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return make_tiny_model(str(tmp_path / "model"), tie_word_embeddings=request.param)


@pytest.mark.parametrize(
    ("folder", "lora"),
    [(True, LoraKnobs()), (False, LoraKnobs(rank=4, dropout=0.3))],
    ids=["tied, full", "untied, lora"],
    indirect=["folder"],
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


@pytest.mark.parametrize("folder", [False], ids=["untied"], indirect=True)
def test_training_with_a_part_that_gets_no_gradient_is_resumed(folder: str, tmp_path: Path) -> None:
    """As the vision tower of a model that only text is given."""
    first, second = (make_learner(folder) for _ in range(2))
    saved = str(tmp_path / "checkpoint")
    for learner in (first, second):
        learner.student.model.vision = torch.nn.Linear(4, 4)
        learner.optimizer.add_param_group(
            {"params": list(learner.student.model.vision.parameters())}
        )
    losses(first, folder, range(2))
    CheckpointWriter().start(first.student, first.optimizer, TrainProgress(2, 10), saved).result()
    expected = losses(first, folder, range(2, 4))
    load_checkpoint(second.student, second.optimizer, saved)
    assert losses(second, folder, range(2, 4)) == expected


@pytest.mark.parametrize("folder", [True], ids=["tied"], indirect=True)
def test_fact_that_a_checkpoint_does_not_have_is_its_default(folder: str, tmp_path: Path) -> None:
    learner, writer = make_learner(folder), CheckpointWriter()
    facts = {"step": 2, "total_steps": 10, "best_step": 1, "best_score": -0.5}
    fewer = namedtuple("Fewer", facts)(**facts)
    saved = str(tmp_path / "checkpoint")
    writer.start(learner.student, learner.optimizer, cast(TrainProgress, fewer), saved).result()
    assert load_checkpoint(learner.student, learner.optimizer, saved) == TrainProgress(**facts)


@pytest.mark.parametrize("folder", [False], ids=["untied"], indirect=True)
@pytest.mark.parametrize("lora", [LoraKnobs(), LoraKnobs(rank=4)], ids=["full", "lora"])
def test_bridge_is_trained_resumed_bit_for_bit_and_in_no_export(
    folder: str, tmp_path: Path, lora: LoraKnobs
) -> None:
    wide = Prompted(make_tiny_model(str(tmp_path / "wide"), num_heads=3, seed=1), PromptKnobs())
    asked = {"objective": TinyBert(layers=[(0, 0), (1, 1)]), "frozen": wide, "lora": lora}
    first, saved = make_learner(folder, **asked), str(tmp_path / "checkpoint")
    assert first.student.bridge.weight.shape == (96, 64)
    drawn = first.student.bridge.weight.full_tensor().clone()
    losses(first, folder, range(2))
    assert (first.student.bridge.weight.full_tensor() - drawn).abs().max() > 1e-3
    CheckpointWriter().start(first.student, first.optimizer, TrainProgress(2, 10), saved).result()
    then = first.student.bridge.weight.full_tensor().clone()
    expected = losses(first, folder, range(2, 5))
    second = make_learner(folder, **asked)
    assert torch.equal(second.student.bridge.weight.full_tensor(), drawn)
    load_checkpoint(second.student, second.optimizer, saved)
    assert torch.equal(second.student.bridge.weight.full_tensor(), then)
    assert losses(second, folder, range(2, 5)) == expected
    export_student(second.student, folder, tmp_path / "out")
    assert tensor_names(tmp_path / "out") == tensor_names(Path(folder))


@pytest.mark.parametrize("folder", [True], ids=["tied"], indirect=True)
def test_checkpoint_kept_in_a_bucket_is_whole(folder: str, tmp_path: Path, bucket: str) -> None:
    learner = make_learner(folder)
    losses(learner, folder, range(2))
    progress, place = TrainProgress(2, 9), Place(f"{bucket}/{tmp_path.name}/step_2")
    CheckpointWriter().start(
        learner.student, learner.optimizer, progress, tmp_path / "here"
    ).result()
    written = {file.name: file.stat().st_size for file in (tmp_path / "here").iterdir()}
    keep_checkpoint(tmp_path / "here", place)
    assert {file.name: file.size() for file in place.walk()} == written
    again = make_learner(folder)
    with readable_folder(place) as there:
        assert load_checkpoint(again.student, again.optimizer, there) == progress
    assert losses(again, folder, range(2, 4)) == losses(learner, folder, range(2, 4))


@pytest.mark.parametrize("folder", [True], ids=["tied"], indirect=True)
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
