"""A scorer that cannot be trusted is refused on its first group, before it says anything. Its
engine is transformers here: what a faulty one would give is planted in it."""

import asyncio
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.groups import make_completion, make_group, write_store
from support.models import make_tiny_model
from transformers import AutoModelForCausalLM

from fastdistill_ray.errors import FailedError, UserError
from fastdistill_ray.generation.knobs import EngineKnobs
from fastdistill_ray.groups.signals import Signal
from fastdistill_ray.groups.steps import read_index
from fastdistill_ray.models import vocabulary_of
from fastdistill_ray.prompts import Prompted, PromptKnobs
from fastdistill_ray.scoring.engine import ScoringEngine, ScoringSpec
from fastdistill_ray.scoring.requests import SCORE_SCHEMA, TextRequests, Texts
from fastdistill_ray.training.trust import TOLERANCE, Apart, check_same

PROMPT = list(range(20, 32))
TEXTS = [[40, 41, 42, 43, 44, 45, 46, 47], [40, 41, 50], [60]]
EVERY = [Signal("chosen"), Signal("topk", 5), Signal("random", 8), Signal("hidden", 16)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    found = [
        make_tiny_model(str(folder / str(seed)), seed=seed, tie_word_embeddings=False)
        for seed in range(2)
    ]
    for path in found:  # sharp, as a trained model is
        model = AutoModelForCausalLM.from_pretrained(path)
        with torch.no_grad():
            model.lm_head.weight *= 8
        model.save_pretrained(path)
    return found


class Plain:
    """States by transformers, without those that a prefix cache has: of the prompt, all but its
    last. `spoil` is what a fault makes of those that a cache was read for."""

    def __init__(self, folder: str, spoil=lambda states: states) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).get_decoder()
        self.spoil, self.asked = spoil, []

    @torch.no_grad()
    async def __call__(self, ids: list[int], *, from_cache: bool) -> torch.Tensor:
        self.asked.append((tuple(ids), from_cache))
        states = self.model(torch.tensor([ids])).last_hidden_state[0]
        return self.spoil(states[len(PROMPT) - 1 :]) if from_cache else states


def engine_of(folder: str, reads: Plain, signal: Signal, dtype: str = "float32") -> ScoringEngine:
    spec = ScoringSpec(
        "teacher.model", folder, EngineKnobs(dtype=dtype), signal, vocabulary_of(folder)
    )
    return ScoringEngine(spec, lambda *_: reads)


def written_by(folder: str, ids: list[int]) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        logprob = model(torch.tensor([PROMPT + ids])).logits[0, len(PROMPT) - 1 : -1].log_softmax(1)
    return logprob.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()


def drawn_by(folder: str, num_tokens: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    asked = torch.tensor([PROMPT])
    (ids,) = model.generate(asked, do_sample=True, max_new_tokens=num_tokens, top_k=0).tolist()
    return ids[len(PROMPT) :]


def batch_of(
    written: list[list[float]], key: str = "p", texts: list[list[int]] = TEXTS
) -> pa.Table:
    row = {
        "problem_id": key,
        "prompt_token_ids": PROMPT,
        "places": list(range(len(texts))),
        "token_ids": texts,
        "written": written,
        "seed": 0,
    }
    return pa.Table.from_pylist([row], schema=SCORE_SCHEMA)


NOT_KNOWN: list[list[float]] = [[], [], []]


@pytest.mark.parametrize("signal", EVERY, ids=lambda signal: signal.name)
def test_sound_scorer_is_asked_twice_about_two_texts_of_its_first_group_and_then_once(
    models: list[str], signal: Signal
) -> None:
    """One text comes without the end of its turn, of which no log-probability was noted."""
    reads = Plain(models[0])
    engine = engine_of(models[0], reads, signal)
    written = [written_by(models[0], TEXTS[0])[:-1], written_by(models[0], TEXTS[1]), []]

    async def ask() -> list[pa.Table]:
        return await asyncio.gather(*(engine(batch_of(written, key)) for key in "ab"))

    tables = asyncio.run(ask())
    assert [table["failure"].to_pylist() for table in tables] == [[""], [""]]
    again = [ids for ids, from_cache in reads.asked if not from_cache]
    assert again == [tuple(PROMPT + ids[:-1]) for ids in TEXTS[:2]]
    assert len(reads.asked) == 2 * len(TEXTS) + 2


@pytest.mark.parametrize("signal", EVERY, ids=lambda signal: signal.name)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda states: torch.cat([states[:2] * 0 + 1.0, states[2:]]),  # never computed
        lambda states: torch.cat([states[1:], states[:1]]),  # of the next token
        lambda states: states * float("nan"),
    ],
    ids=["memory that nobody wrote", "other places", "no numbers"],
)
def test_cache_that_gives_other_states_is_refused_and_nothing_is_said(
    models: list[str], signal: Signal, spoil
) -> None:
    engine = engine_of(models[0], Plain(models[0], spoil), signal)

    async def ask() -> list:
        batches = (engine(batch_of(NOT_KNOWN, key)) for key in "abc")
        return await asyncio.gather(*batches, return_exceptions=True)

    for error in asyncio.run(ask()):
        assert isinstance(error, UserError)
        assert str(error).startswith(f"teacher.model {models[0]}: asked about one text in two")
        assert "set extra: {enable_prefix_caching: false}" in str(error)


@pytest.mark.parametrize("signal", EVERY, ids=lambda signal: signal.name)
def test_scorer_of_other_weights_than_who_wrote_is_refused(
    models: list[str], signal: Signal
) -> None:
    """Whether its engine alone has others, or its head too; the writer itself is trusted."""
    texts = [drawn_by(models[1], 40)]
    batch = batch_of([written_by(models[1], texts[0])], texts=texts)
    for folder, of_engine in ((models[0], models[0]), (models[1], models[0])):
        engine = engine_of(folder, Plain(of_engine), signal)
        with pytest.raises(UserError, match=r"teacher.model .* its own texts .*set scorer.model"):
            asyncio.run(engine(batch))
    assert asyncio.run(engine_of(models[1], Plain(models[1]), signal)(batch)).num_rows == 1


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_states_computed_in_the_precision_of_an_engine_are_within_its_tolerance(
    models: list[str], dtype: str
) -> None:
    """Against float64, which is further apart than two batches of one precision are."""
    states = []
    for one in (torch.float64, getattr(torch, dtype)):
        model = AutoModelForCausalLM.from_pretrained(models[0], dtype=one).get_decoder()
        with torch.no_grad():
            states.append(model(torch.tensor([PROMPT + TEXTS[0]])).last_hidden_state[0])
    check_same("s", dtype, *states)
    with pytest.raises(UserError, match="differ by 1"):
        check_same("s", dtype, states[0], states[1].flip(0))


def test_own_tokens_may_differ_by_rounding_and_not_by_another_prompt():
    random = np.random.default_rng(0)
    written = -random.exponential(1.0, 400)
    rounded = written + random.normal(0, 0.1, 400)
    Apart.of(written, rounded).check("s")
    Apart.of(np.array([-1.17]), np.array([-1.2])).check("s")
    Apart.of(np.zeros(0), np.zeros(0)).check("s")
    for apart in (0.287, -0.287):  # nats that a renderer that differs was seen to cost
        with pytest.raises(UserError, match=r"at most 0\.05"):
            Apart.of(written, rounded - apart).check("s")


def test_request_that_its_engine_refuses_fails_alone(models: list[str]) -> None:
    class Refusing(Plain):
        async def __call__(self, ids: list[int], *, from_cache: bool) -> torch.Tensor:
            if not self.asked:
                self.asked.append(ids)
                raise FailedError("vLLM refuses it: too long")
            return await super().__call__(ids, from_cache=from_cache)

    engine = engine_of(models[0], Refusing(models[0]), Signal("chosen"))

    async def ask() -> list[str]:
        return [(await engine(batch_of(NOT_KNOWN, key)))["failure"][0].as_py() for key in "ab"]

    assert asyncio.run(ask()) == ["vLLM refuses it: too long", ""]


def texts_of(model: str, is_writer: bool) -> Texts:
    own = Prompted(model, PromptKnobs())
    return Texts(own, {model: own.prompt}, own, 512, 0, is_writer=is_writer)


def test_requests_of_the_first_groups_say_how_likely_the_scorers_own_tokens_were(
    models: list[str], tmp_path: Path
) -> None:
    """Of a completion that selection left out nothing is asked; of another model's none is."""
    ids = [[40, 41, 42], [50, 51], [60]]
    completions = [
        make_completion(token_ids=one, is_selected=place != 1) for place, one in enumerate(ids)
    ]
    drawn = [token for one in ids for token in one]
    noted = {
        "logprob_ids": [one for token in drawn for one in (token, 7)],
        "logprobs": [one for place in range(len(drawn)) for one in (-0.5 - place, -9.0)],
    }
    groups = [
        make_group("0", completions, teacher=models[0], **noted),
        make_group("1", completions, teacher=models[1], **noted),
        make_group("2", completions, teacher=models[0]),
    ]
    store = write_store(tmp_path, groups, is_complete=True)
    index = read_index(store)

    def written(numbers: list[int], *, is_writer: bool) -> list[list[list[float]]]:
        requests = TextRequests(str(tmp_path), index, texts_of(models[0], is_writer))
        return requests.take(np.array(numbers))["written"].to_pylist()

    none = [[], []]
    assert written([0, 1, 2], is_writer=True) == [[[-0.5, -1.5, -2.5], [-5.5]], none, none]
    assert written([0, 1, 2], is_writer=False) == [none] * 3
