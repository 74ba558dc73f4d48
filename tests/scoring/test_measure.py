"""Signals of hidden states against the whole distribution in float64, and what is read back."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.signals import (
    KEYS,
    GroupSignals,
    Signal,
    Signals,
    Spoken,
    arrays_of,
    bytes_of,
    joined,
    schema_of,
    to_table,
)
from fastdistill_ray.groups.store import Store
from fastdistill_ray.scoring import measure
from fastdistill_ray.scoring.measure import measured
from fastdistill_ray.training.frozen import FrozenHead

VOCABULARY, PADDED, WIDTH = 300, 320, 16
LENGTHS = [5, 1, 9]
EVERY = [
    Signal("chosen"),
    Signal("random", 40),
    Signal("random", 40, temperature=2.0),
    Signal("topk", 7),
    Signal("topk", 7, temperature=0.5),
    Signal("hidden", 16),
    Signal("hidden", 8),
]


def make_head(**changes: float | None) -> FrozenHead:
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(PADDED, WIDTH, generator=random, dtype=torch.float64)
    bias = torch.randn(PADDED, generator=random, dtype=torch.float64)
    knobs = {"factor": 0.5, "cap": 4.0} | changes
    return FrozenHead(weight, bias, VOCABULARY, knobs["factor"], knobs["cap"])


def exact(head: FrozenHead, hidden: torch.Tensor, temperature: float) -> torch.Tensor:
    logits = head.logit_factor * (hidden @ head.weight.T + head.bias)[:, :VOCABULARY]
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return (logits / temperature).log_softmax(-1)


def stored(signal: Signal, tmp_path, vocabulary: int = VOCABULARY, **changes):
    """-> (what is read back of each completion, their ids, exact log-probabilities, states)."""
    random = torch.Generator().manual_seed(2)
    hidden = torch.randn(sum(LENGTHS), WIDTH, generator=random, dtype=torch.float64)
    ids = torch.randint(0, VOCABULARY, (sum(LENGTHS),), generator=random)
    head = make_head(**changes)
    texts = [part.tolist() for part in ids.split(LENGTHS)]
    spoken = Spoken("p/1", [0, 2, 3], texts, 11, measured(signal, hidden, ids, head, seed=3))
    store = Store(tmp_path)
    commit = store.write(to_table([spoken], schema_of(signal, vocabulary)))
    store.append([commit])
    assert (commit.num_tokens, commit.prompt_tokens) == (sum(LENGTHS), 11)
    (table,) = store.tables()
    arrays = arrays_of(table)
    lists = {name for name, _ in KEYS} | {"column_scale"}  # a few of these for a whole group
    kept = sum(one.nbytes for name, one in arrays.items() if name not in lists)
    assert kept <= bytes_of(signal, WIDTH) * sum(LENGTHS)
    group = GroupSignals(arrays, signal)
    found = [group.of(place, ids) for place, ids in zip([0, 2, 3], texts, strict=True)]
    return found, ids, exact(head, hidden, signal.temperature), hidden


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of two tokens, so that there are many and one that is short."""
    monkeypatch.setattr(measure, "BLOCK_BYTES", {"cpu": 4 * VOCABULARY * 2})


@pytest.mark.parametrize("vocabulary", [VOCABULARY, 200_000], ids=["short ids", "long ids"])
@pytest.mark.parametrize("signal", EVERY, ids=lambda signal: signal.name)
def test_what_is_read_back_is_what_the_whole_distribution_says(signal, tmp_path, vocabulary):
    found, ids, logprob, hidden = stored(signal, tmp_path, vocabulary)
    assert [len(one.rest) for one in found] == LENGTHS
    said = joined(found)
    match signal.kind:
        case "chosen":
            assert np.allclose(said.values[:, 0], logprob.gather(1, ids[:, None])[:, 0], atol=1e-6)
        case "topk":
            top = logprob.topk(signal.size)
            assert np.array_equal(said.ids, top.indices)
            assert np.allclose(said.values, top.values, atol=1e-6)
            rest = logprob.scatter(1, top.indices, -torch.inf).logsumexp(1)
            assert np.allclose(said.rest, rest, atol=1e-6)
        case "random":
            assert np.allclose(said.values.sum(1), 1)
            counts = said.values * signal.size
            assert np.allclose(counts, np.rint(counts)) and ((said.ids < 0) == (counts == 0)).all()
            assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in said.ids)
        case "hidden":
            error = np.abs(said.hidden - hidden.numpy())
            bound = np.abs(hidden.numpy()) * 2**-8
            if signal.size == 8:  # half a step of the largest number of a row, by column
                column = np.abs(hidden.numpy()).mean(0)
                bound = (np.abs(hidden / column).amax(1, keepdim=True) / 254).numpy() * column
            assert (error <= bound * 1.01 + 1e-9).all()


def test_draws_are_the_distribution_and_the_same_whenever_they_are_drawn(tmp_path):
    """40,000 draws of a token: shares within five deviations of its probabilities."""
    head, signal = make_head(), Signal("random", 200)
    hidden = torch.randn(1, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    p = exact(head, hidden, 1.0).exp().numpy()[0]
    counts = np.zeros(VOCABULARY)
    ids = torch.zeros(200, dtype=torch.int64)
    rows = hidden.expand(200, WIDTH)
    said = measured(signal, rows, ids, head, seed=6)
    np.add.at(counts, said["ids"].astype(int), said["counts"].astype(int))
    assert counts.sum() == 40_000
    deviation = np.sqrt(40_000 * p * (1 - p))
    assert (np.abs(counts - 40_000 * p) <= 5 * deviation + 1).all()
    again = measured(signal, rows, ids, head, seed=6)
    assert all(np.array_equal(said[name], again[name]) for name in said)


def test_rest_of_a_distribution_that_is_all_but_one_token_is_exact(tmp_path):
    """Its mass of e^-32 would be lost in 1 minus that of the others."""
    head = make_head(factor=1.0, cap=None)
    hidden = torch.zeros(1, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        head.bias.zero_()
        head.bias[7] = 32 + np.log(VOCABULARY - 1)
    said = measured(Signal("topk", 1), hidden, torch.zeros(1, dtype=torch.int64), head, seed=0)
    assert said["ids"] == [7] and said["rest"][0] == pytest.approx(-32, abs=1e-5)


def test_signals_of_other_tokens_or_of_another_completion_are_refused(tmp_path):
    signal = Signal("chosen")
    stored(signal, tmp_path)
    (table,) = Store(tmp_path).tables()
    group = GroupSignals(arrays_of(table), signal)
    for place, ids in ((1, [4]), (0, [1, 2, 3, 4, 5])):
        with pytest.raises(UserError, match=r"problem p/1: the stored signals are of other tokens"):
            group.of(place, ids)


def test_bfloat16_is_torchs_own_rounding():
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32) * 10
    values[:3] = [0.0, -0.0, 1 + 2**-8]  # a tie goes to the even one
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    states, ids = torch.from_numpy(values)[:, None], torch.zeros(10_000, dtype=torch.int64)
    said = measured(Signal("hidden", 16), states, ids, None, seed=0)
    assert np.array_equal(said["hidden"], expected)


def test_tables_of_the_same_row_hold_no_python_object_per_number(tmp_path):
    signal = Signal("topk", 7)
    stored(signal, tmp_path)
    (table,) = Store(tmp_path).tables()
    arrays = arrays_of(table)
    assert arrays["ids"].dtype == np.uint16 and arrays["values"].dtype == np.float32
    assert isinstance(table["ids"].type, pa.ListType)
    assert isinstance(GroupSignals(arrays, signal).of(2, table_ids(2)), Signals)


def table_ids(place: int) -> list[int]:
    random = torch.Generator().manual_seed(2)
    torch.randn(sum(LENGTHS), WIDTH, generator=random, dtype=torch.float64)
    ids = torch.randint(0, VOCABULARY, (sum(LENGTHS),), generator=random)
    return ids.split(LENGTHS)[[0, 2, 3].index(place)].tolist()
