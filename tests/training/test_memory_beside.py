"""What objectives take beside the student against tensors that are really there, and sums by
hand."""

import numpy as np
import pytest
import torch
from support.allocated import kept_by_autograd, most_allocated
from support.learner import CPU, TOLERANCE, make_learner
from support.models import make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from fastdistill_ray.objectives import OBJECTIVES, AnyObjective, Lit
from fastdistill_ray.objectives.contract import Across, Needs
from fastdistill_ray.prompts import Prompted, PromptKnobs
from fastdistill_ray.training.across import sorted_distance
from fastdistill_ray.training.alignment import Spans
from fastdistill_ray.training.head import Readout
from fastdistill_ray.training.knobs import OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.levels import Transport, levels
from fastdistill_ray.training.memory import MemoryEstimate, estimate_memory
from fastdistill_ray.training.memory_beside import across_bytes, sinkhorn_bytes
from fastdistill_ray.training.packing import TrainCompletion, TrainGroup, packed_batch
from fastdistill_ray.training.step import compute
from fastdistill_ray.training.student import to_device

VOCABULARY, WIDTH, WIDE, TOKENS = 512, 64, 96, 576
KNOBS = {"precision": "fp32", "micro_batch_tokens": TOKENS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Teachers as wide as the student, and wider, with tokenizers that are not used."""
    path = tmp_path_factory.mktemp("models")
    found = {}
    for name, width in (("student", WIDTH), ("teacher", WIDTH), ("wide", WIDE)):
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
        found[name] = str(path / name)
        LlamaForCausalLM(config).save_pretrained(found[name])
        make_tokenizer().save_pretrained(found[name])
    return found


def plan(
    folders: dict[str, str], needs: Needs, teacher: str = "teacher", **training: object
) -> MemoryEstimate:
    return estimate_memory(
        folders["student"],
        TrainingKnobs(**KNOBS | training),
        OptimizerKnobs(),
        workers=1,
        device="cpu",
        frozen=folders[teacher],
        needs=needs,
    )


def kept(folders: dict[str, str], objective: AnyObjective, teacher: str) -> int:
    """By a forward pass over a full micro-batch, and by the loss."""
    frozen = Prompted(folders[teacher], PromptKnobs(system=""))
    learner = make_learner(folders["student"], objective=objective, frozen=frozen, **KNOBS)
    ids = np.full(TOKENS // 9, 7)
    group = TrainGroup("", ids, [TrainCompletion(ids, 1.0, 0.0)] * 8)
    batch = packed_batch([group], 1)
    constants = to_device(batch.loss, CPU)
    return kept_by_autograd(lambda: (x := compute(learner, batch), objective(x, constants)))


@pytest.mark.usefixtures("world_of_one")
@pytest.mark.parametrize(
    ("objective", "teacher"),
    [
        (OBJECTIVES["fitnets"](layers=[(1, 1)]), "wide"),
        (OBJECTIVES["tinybert"](layers=[(0, 1), (1, 2)]), "wide"),
        (Lit(layers=[(0, 0), (2, 2)]), "teacher"),
        (OBJECTIVES["minilm"](layers=[(1, 2)]), "teacher"),
        (OBJECTIVES["minilmv2"](layers=[(1, 1)], relation_heads=4), "wide"),
    ],
    ids=["a bridge", "several states", "another pass", "attention", "relations"],
)
def test_what_comparing_blocks_adds_is_near_what_autograd_keeps_of_it(
    folders: dict[str, str], objective: AnyObjective, teacher: str
) -> None:
    plain = OBJECTIVES["forward_kl"](alpha=objective.alpha, temperature=objective.temperature)
    measured = kept(folders, objective, teacher) - kept(folders, plain, teacher)
    bridge = 4 * WIDTH * WIDE * objective.needs.bridge  # a weight, as such counted elsewhere
    with_blocks = plan(folders, objective.needs, teacher).activations
    counted = with_blocks - plan(folders, plain.needs, teacher).activations
    assert counted == pytest.approx(measured - bridge, rel=0.05)


def test_another_pass_is_counted_where_blocks_are_computed_again(folders: dict[str, str]) -> None:
    """Of three blocks the inputs of both passes, and no more of either than of one block."""
    needs = Lit(layers=[(0, 0), (2, 2)]).needs
    once, twice = (
        plan(folders, one, activation_checkpointing=True).activations for one in (Needs(), needs)
    )
    inputs = 3 * TOKENS * WIDTH * 4
    states = 2 * 2 * 4 * TOKENS * WIDTH
    assert inputs <= twice - once <= inputs + states


def test_bridge_is_trained_as_the_student_is(folders: dict[str, str]) -> None:
    needs = OBJECTIVES["fitnets"](layers=[(1, 1)]).needs
    plain, bridged = (plan(folders, one, "wide") for one in (Needs(), needs))
    added = [getattr(bridged, name) - getattr(plain, name) for name in ("weights", "optimizer")]
    assert added == [4 * WIDTH * WIDE, 8 * WIDTH * WIDE]
    assert bridged.gradients - plain.gradients == 4 * WIDTH * WIDE
    assert bridged.activations > plain.activations


def test_of_a_model_whose_states_are_stored_the_head_alone_is_counted(
    folders: dict[str, str],
) -> None:
    needs = OBJECTIVES["forward_kl"](states="bf16").needs
    head, states = 4 * VOCABULARY * WIDE, (4 + 4) * TOKENS * WIDE
    found = plan(folders, needs, "wide")
    assert found.frozen == head + states
    halves = plan(folders, needs, "wide", precision="bf16")
    assert halves.frozen == head // 2 + (4 + 2) * TOKENS * WIDE
    whole = plan(folders, OBJECTIVES["forward_kl"]().needs, "wide")
    assert whole.frozen > 4 * sum(one.numel() for one in _weights(folders["wide"]))


def _weights(folder: str) -> list[torch.nn.Parameter]:
    return list(LlamaForCausalLM.from_pretrained(folder).parameters())


def make_readout(rows: int, seed: int, *, learns: bool) -> Readout:
    random = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, WIDTH, generator=random) for n in (rows, VOCABULARY))
    return Readout(hidden.requires_grad_(learns), weight.requires_grad_(learns))


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000], ids=["a row", "blocks", "one block"])
def test_sorting_rows_holds_what_is_planned(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    """Beside one gradient of the states and one of the head's weight, as any loss has them."""
    size = {"cpu": 4 * 4 * 2 * VOCABULARY * chunk_rows}
    for module in ("across", "memory_beside"):
        monkeypatch.setattr(f"fastdistill_ray.training.{module}.CHUNK_BYTES", size)
    rows = 64
    own, other = (make_readout(rows, seed, learns=seed == 0) for seed in (0, 1))
    measured = most_allocated(lambda: sorted_distance(own, other, 1.0).sum().backward())
    training, both = TrainingKnobs(micro_batch_tokens=rows), (folders["student"],) * 2
    counted = across_bytes(Across("sorted"), training, *both, "cpu")
    gradients = 4 * rows * WIDTH + 4 * VOCABULARY * WIDTH
    assert counted + gradients == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize(("num_rows", "iterations"), [(64, 10), (100, 4)])
def test_moving_tokens_holds_what_is_planned(num_rows: int, iterations: int) -> None:
    p_TM, q_UM = torch.rand(num_rows, 8), torch.rand(num_rows, 8, requires_grad=True)
    cost = Transport.apply(p_TM, q_UM, 0.1, iterations)
    measured = most_allocated(cost.backward)
    assert sinkhorn_bytes(num_rows, num_rows, iterations) == pytest.approx(measured, rel=TOLERANCE)


def test_tokens_in_their_order_hold_what_is_planned(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two texts, each with a prompt as long as it; slices of the vocabulary are narrow."""
    monkeypatch.setattr("fastdistill_ray.training.head.CHUNK_BYTES", {"cpu": 4 * 1024 * 8})
    rows, k = 128, 50
    own, other = (make_readout(rows, seed, learns=seed == 0) for seed in (0, 1))
    across = Across("levels", k=k, epsilon=0.1, iterations=10)
    places, lengths = torch.arange(rows), torch.tensor([rows // 2] * 2)
    spans = Spans(places, places, lengths, lengths)

    def train() -> None:
        found = levels(own, other, across, spans)
        sum(part.sum() for part in found).backward()

    training, both = TrainingKnobs(micro_batch_tokens=rows), (folders["student"],) * 2
    counted = across_bytes(across, training, *both, "cpu")
    assert counted == pytest.approx(most_allocated(train), rel=TOLERANCE)
