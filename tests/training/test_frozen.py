"""Every objective through training's own step against its papers' definition in float64, with a
model beside the student that has a prompt of its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.across import as_read_by_itself, with_readings
from support.learner import assert_same, gradients_of, make_learner, make_row
from support.models import make_tiny_model, make_twin_tokenizer
from support.objectives import in_views, reads_apart, teacher_of
from support.reference import confident_by_definition, loss_and_gradients_by_definition
from support.signals import with_signals

from fastdistill_ray.errors import UserError
from fastdistill_ray.objectives import OBJECTIVES, AnyObjective, Dpo
from fastdistill_ray.prompts import Prompted, PromptKnobs, Shot
from fastdistill_ray.training.learner import Learner
from fastdistill_ray.training.packing import TrainCompletion, TrainGroup
from fastdistill_ray.training.step import COUNTS, backward, make_batches, pack, train_step

pytestmark = pytest.mark.usefixtures("world_of_one")
KNOBS = {
    "advdistill": [{}],
    "sft": [{}, {"on": "all", "confidence": 0.5}],
    "step_by_step": [{}, {"alpha": 0.3}, {"alpha": 1.0}],
    "dpo": [{}, {"normalize": "token", "alpha": 0.5, "beta": 2.0}, {"reference": "stored"}],
    "skew_kl": [{}, {"skew": 0.7, "temperature": 2.0, "alpha": 0.3}],
    "jsd": [{}, {"beta": 0.9, "weighting": "advantage", "alpha": 0.5}],
}
KNOBS |= {
    "forward_kl": [{}, {"temperature": 2.0, "alpha": 0.3}, {"states": "bf16"}],
    "reverse_kl": [{}, {"weighting": "advantage", "states": "int8"}],
    "dpkd": [{}, {"temperature": 2.0, "beta": 3.0, "alpha": 0.0}],
    "born_again": [
        {},
        {"temperature": 2.0, "alpha": 0.3, "on": "correct"},
        {"knowledge": "confidence", "weighting": "advantage"},
        {"knowledge": "permuted", "temperature": 2.0, "alpha": 0.0},
    ],
    "topk_kl": [{}, {"k": 3, "temperature": 2.0, "alpha": 0.3}, {"weighting": "advantage"}],
    "pkd": [{"layers": [(0, 1)]}, {"layers": [(0, 0)], "weighting": "advantage", "beta": 3.0}],
    "distilbert": [{}, {"cosine": 2.0}],
    "multilevel_ot": [
        {},
        {"k": 3, "temperature": 2.0, "alpha": 0.3, "transport": 0.0},
        {"weighting": "advantage", "transport": 20.0, "epsilon": 0.3, "logarithmic": 0.0},
    ],
    "opd": [
        {},
        {"max_ratio": 1.2, "reward": 0.5},
        {"form": "full"},
        {"form": "full", "divergence": "jsd", "share": 0.3, "reward": 2.0},
        {"form": "topk", "k": 5},
        {"form": "chunks"},
        {"form": "chunks", "max_ratio": 1.2, "reward": 0.5},
        {"form": "minillm"},
    ],
    "distillm2": [{}, {"skew": 0.6, "beta": 1.5}],
    "fitnets": [{"layers": [(0, 1)]}, {"layers": [(1, 2)], "weighting": "advantage", "beta": 3.0}],
    "lit": [{"layers": [(0, 1), (1, 2)]}, {"layers": [(1, 0)], "beta": 3.0, "alpha": 0.5}],
    "minilm": [{"layers": [(1, 2)]}, {"layers": [(0, 0)], "weighting": "advantage", "beta": 3.0}],
    "minilmv2": [
        {"layers": [(1, 1)], "relation_heads": 4},
        {"layers": [(0, 2)], "relation_heads": 32, "weighting": "advantage", "beta": 3.0},
    ],
    "tinybert": [{"layers": [(0, 1), (1, 2)]}, {"layers": [(1, 0)], "beta": 3.0, "alpha": 0.5}],
}
OTHERS = [{}, {"temperature": 2.0, "alpha": 0.3}, {"weighting": "advantage"}]
EVERY = [OBJECTIVES[kind](**knobs) for kind in OBJECTIVES for knobs in KNOBS.get(kind, OTHERS)]
INSIDE = [one for one in EVERY if one.needs.taps or one.needs.relations]
ZERO = ("topk_kl", "dpkd", "opd", "uld", "byte_kl")
COMPARING = [one for one in EVERY if one.needs.measure or one.kind in ZERO]


def named(objective: AnyObjective) -> str:
    knobs = objective.model_dump(exclude_defaults=True, by_alias=True)
    return " ".join([objective.kind, *(f"{name}={value}" for name, value in knobs.items())])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("models")
    return {
        "student": make_tiny_model(str(path / "student"), seed=3),
        "teacher": make_tiny_model(
            str(path / "teacher"), seed=4, tie_word_embeddings=False, num_layers=3
        ),
        "wide": make_tiny_model(str(path / "wide"), seed=4, num_layers=3, num_heads=3),
        "twin": make_tiny_model(
            str(path / "twin"), seed=4, num_layers=3, tokenizer=make_twin_tokenizer()
        ),
    }


def make_groups(
    objective: AnyObjective, frozen_prompts: bool, teacher: str = ""
) -> list[TrainGroup]:
    """Three groups of two or three, for pairs of two with opposite weights; signals, if any, are
    those of the teacher."""
    random = np.random.default_rng(7)
    groups = []
    for index, lengths in enumerate([[5, 1, 9], [3, 3], [7, 2, 4]]):
        weights = random.dirichlet(np.ones(len(lengths)))
        if isinstance(objective, Dpo):
            lengths, weights = lengths[:2], [1.0, -1.0]
        completions = [
            TrainCompletion(random.integers(0, 250, n), float(weight), place % 2 / 3)
            for place, (n, weight) in enumerate(zip(lengths, weights, strict=True))
        ]
        own = random.integers(0, 250, 20) if frozen_prompts else None
        prompt = random.integers(0, 250, 3 + index)
        if own is not None and index:  # both end alike, or the teacher reads more before it
            own[-2 * index :] = prompt[-2 * index :]
        groups.append(TrainGroup(str(index), prompt, completions, frozen_prompt_ids=own))
    return in_views(with_signals(with_readings(groups, objective), objective, teacher), objective)


def found(learner: Learner, groups: list[TrainGroup], progress: float = 0.0) -> tuple[float, dict]:
    learner.student.zero_grad()
    batches = pack(learner, groups)
    counts = {name: sum(batch.counts[name] for batch in batches) for name in COUNTS}
    terms = backward(learner, batches, counts, progress)
    loss = sum(term.coefficient * term.total for term in terms)
    return loss, gradients_of(learner.student)


@pytest.mark.parametrize("objective", EVERY, ids=named)
def test_every_objective_is_what_its_papers_say_however_groups_are_laid_out(folders, objective):
    needs = objective.needs
    needed = needs.frozen or needs.signal  # here always another model, so that it is seen
    teacher = folders[teacher_of(objective)]
    frozen = Prompted(teacher, PromptKnobs()) if needed else None
    groups = make_groups(objective, reads_apart(objective), teacher)
    expected = loss_and_gradients_by_definition(
        objective, folders["student"], groups, frozen.model if frozen else ""
    )
    for layout in (
        {"micro_batch_tokens": 1000},
        {"micro_batch_tokens": 25},
        {"shared_prompt": False, "micro_batch_tokens": 40},
    ):
        learner = make_learner(folders["student"], objective=objective, frozen=frozen, **layout)
        assert_same(found(learner, groups), expected, 2e-5)
        assert len(pack(learner, groups)) == 1 or layout["micro_batch_tokens"] < 1000


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.05, 0.125), (0.2, 0.5), (1, 0.5)])
@pytest.mark.parametrize("layout", [{"micro_batch_tokens": 25}, {"shared_prompt": False}], ids=str)
def test_confidence_is_that_of_the_students_own_likeliest_token(folders, layout, progress, share):
    objective = OBJECTIVES["sft"](on="all", confidence=0.5, ramp=0.2)
    groups = make_groups(objective, frozen_prompts=False)
    expected = confident_by_definition(folders["student"], groups, share)
    learner = make_learner(folders["student"], objective=objective, **layout)
    assert_same(found(learner, groups, progress), expected, 2e-5)


@pytest.mark.parametrize("objective", INSIDE, ids=named)
def test_what_stands_inside_of_blocks_is_the_same_where_these_are_computed_again(
    folders, objective
):
    frozen = Prompted(folders[teacher_of(objective)], PromptKnobs())
    groups = make_groups(objective, reads_apart(objective))
    once, again = (
        make_learner(
            folders["student"], objective=objective, frozen=frozen, activation_checkpointing=is_on
        )
        for is_on in (False, True)
    )
    assert_same(found(again, groups), found(once, groups), 1e-6)


@pytest.mark.parametrize("objective", COMPARING, ids=named)
def test_teacher_that_is_the_student_asks_for_nothing(folders, objective):
    frozen = Prompted(folders["student"], PromptKnobs(system=""))
    fields = type(objective).model_fields
    same = {name: 0.0 for name in ("alpha", "reward") if name in fields}
    same |= {"layers": [(0, 0)]} if "layers" in fields else {}
    objective = objective.model_copy(update=same)
    learner = make_learner(folders["student"], objective=objective, frozen=frozen)
    if bridge := learner.student.bridge:
        torch.nn.init.eye_(bridge.weight.to_local())
    groups = make_groups(objective, frozen_prompts=False, teacher=folders["student"])
    if objective.needs.across:
        groups = as_read_by_itself(groups)
    loss, gradients = found(learner, groups)
    assert abs(loss) < 1e-6
    assert max(gradient.abs().max() for gradient in gradients.values()) < 1e-6


def test_preference_of_a_student_that_is_its_reference_is_the_log_of_two(folders):
    objective = Dpo()
    frozen = Prompted(folders["student"], PromptKnobs(system=""))
    learner = make_learner(folders["student"], objective=objective, frozen=frozen)
    loss, gradients = found(learner, make_groups(objective, frozen_prompts=False))
    assert loss == pytest.approx(np.log(2), abs=1e-6)
    assert max(gradient.abs().max() for gradient in gradients.values()) > 1e-4


def test_rows_of_the_store_meet_the_teacher_after_its_own_prompt(folders):
    """Its examples are longer than the student's whole prompt; both have the same targets."""
    shots = [Shot(question="2 + 3?", answer="<think>2 + 3 = 5</think>\n<answer>5</answer>")]
    frozen = Prompted(folders["teacher"], PromptKnobs(system="", shots=shots))
    learner = make_learner(folders["student"], objective=OBJECTIVES["forward_kl"](), frozen=frozen)
    row = make_row(folders["student"], 0)
    (batch,) = make_batches(learner, row["groups"])
    assert batch.frozen is not None
    assert np.array_equal(batch.frozen.labels, batch.inputs.labels)
    assert batch.counts["frozen_tokens"] > batch.counts["unique_tokens"]
    metrics = train_step(learner, row, 10)
    assert metrics["train/frozen_tokens"] == batch.counts["frozen_tokens"]


def test_frozen_model_is_never_trained_and_never_part_of_the_student(folders):
    frozen = Prompted(folders["teacher"], PromptKnobs())
    learner = make_learner(
        folders["student"], objective=OBJECTIVES["jsd"](), frozen=frozen, precision="bf16"
    )
    before = {name: one.full_tensor().clone() for name, one in learner.frozen.named_parameters()}
    train_step(learner, make_row(folders["student"], 0), 10)
    for name, one in learner.frozen.named_parameters():
        assert torch.equal(one.full_tensor(), before[name]) and one.dtype == torch.bfloat16
        assert one.grad is None
    of_student = {id(one) for one in learner.student.parameters()}
    trained = {id(one) for group in learner.optimizer.param_groups for one in group["params"]}
    assert trained == of_student


def test_head_with_fewer_rows_than_the_student_uses_is_refused(folders, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(folders["teacher"]).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folders["teacher"])
    model.resize_token_embeddings(300)
    model.save_pretrained(tmp_path)
    frozen = Prompted(str(tmp_path), PromptKnobs())
    with pytest.raises(UserError, match=r"teacher.model: its head has 300 rows, the student uses"):
        make_learner(folders["student"], objective=OBJECTIVES["tvd"](), frozen=frozen)
