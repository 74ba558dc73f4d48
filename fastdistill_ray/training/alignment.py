"""Where two tokenizers divide one text alike: exact on bytes, numpy alone.

Two segmentations of a text are compared between bytes at which both have a token's end, so that a
character may be split over tokens. The pieces between them are spans; the end of a turn, whatever
its id on either side, is one of its own.
Legend: K and J targets of a text by its two tokenizers, S spans, V and W ids of both.
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastdistill_ray.errors import UserError

Array = Any  # numpy here, a torch.Tensor once the batch is on its device
SPACE = "\u2581"  # what SentencePiece writes for a space
END, REST = 256, 257  # events beside the bytes with which a token begins: see `events`
NUM_EVENTS = 258
# Why a text is left out: name -> what is so of it.
REASONS = {
    "control": "a token inside of the text stands for no text",
    "bytes": "the tokens are not the text, byte for byte",
}
PROBES = (
    "<think>3 + 5 = 8, so Tom has 8 apples.</think>\n<answer>\\boxed{8}</answer>",
    "  two spaces,\ttabs\r\n\n\nand 12,345.678 km",
    "na\u00efve caf\u00e9 \u00bd \u2264 \u65e5\u672c\u8a9e \U0001f642 <|x|>",
)


class Vocabulary(NamedTuple):
    """What the ids of a tokenizer stand for."""

    token_bytes: tuple[bytes, ...]  # of each id; empty where it stands for no text
    end_ids: frozenset[int]  # that end a turn
    # Whether it writes a space of its own before a text, as SentencePiece does.
    has_prefix: bool


class Reading(NamedTuple):
    """How another tokenizer reads a text that is trained."""

    token_ids: np.ndarray  # [J]
    starts: np.ndarray  # [S, 2], places among both sides' targets at which a span begins


class Spans(NamedTuple):
    """Of a micro-batch's texts."""

    own: Array  # [S] int64, places among the K targets at which a span begins
    other: Array  # [S] int64, among the J targets of the other tokenizer
    own_lengths: Array  # [C] int64, targets of each text
    other_lengths: Array  # [C] int64, by the other tokenizer


NO_SPANS = Spans(*np.zeros((4, 0), dtype=np.int64))  # of a micro-batch that counts nothing


class Aligner:
    """Two vocabularies, and how many texts could not be aligned so far, by reason."""

    def __init__(self, own: Vocabulary, other: Vocabulary) -> None:
        self.own, self.other = own, other
        self.lost: Counter[str] = Counter()

    def read(self, own_ids: Sequence[int], other_ids: Sequence[int], text: str) -> Reading | None:
        """None where the text is left out, which is counted."""
        found = align(own_ids, other_ids, text, self.own, self.other)
        if isinstance(found, str):
            self.lost[found] += 1
            return None
        return Reading(np.array(other_ids), found)


def read_vocabulary(tokenizer: Any, end_ids: frozenset[int]) -> Vocabulary:
    """Of a transformers tokenizer; UserError where its tokens cannot be mapped to bytes, with why.

    Byte-level ones and those of SentencePiece's kind are known. Control tokens stand for no text,
    other added ones for theirs.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("its tokenizer has no tokenizer.json, which says what its tokens stand for")
    tree = json.loads(backend.to_str())
    decoder = json.dumps(tree.get("decoder"), ensure_ascii=False)
    is_byte_level = '"ByteLevel"' in decoder
    if not is_byte_level and SPACE not in decoder:
        raise UserError("its tokenizer is neither byte-level nor of SentencePiece's kind")
    added = {one["id"]: one for one in tree.get("added_tokens", [])}
    vocabulary = backend.get_vocab(with_added_tokens=True)
    found = [b""] * (max(vocabulary.values()) + 1)
    for token, place in vocabulary.items():
        if place in added:
            found[place] = b"" if added[place]["special"] else added[place]["content"].encode()
        else:
            found[place] = _byte_level(token) if is_byte_level else _sentence_piece(token)
    vocabulary = Vocabulary(tuple(found), end_ids, has_prefix=False)
    if not is_byte_level:
        first = tokenizer.encode("a", add_special_tokens=False)
        vocabulary = vocabulary._replace(has_prefix=_joined(first, vocabulary)[:1] == b" ")
    _check(tokenizer, vocabulary)
    return vocabulary


def _check(tokenizer: Any, vocabulary: Vocabulary) -> None:
    """UserError where texts are not what their tokens are said to stand for."""
    for text in PROBES:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        found = align(ids, ids, text, vocabulary, vocabulary)
        if isinstance(found, str):
            raise UserError(f"of {text!r} as its tokenizer reads it, {REASONS[found]}")


def align(
    own_ids: Sequence[int], other_ids: Sequence[int], text: str, own: Vocabulary, other: Vocabulary
) -> np.ndarray | str:
    """[S, 2], where spans begin among the tokens of both sides; one of REASONS where their tokens
    are not the text.

    Either side's last token may be an end of turn; only if both are is there a span of it. Where a
    side writes a space of its own before the text, the first span is left out: what that side
    thinks of its first token is of that space.
    """
    bounds, has_end, is_prefixed = [], True, False
    whole = text.encode("utf-8", "surrogatepass")
    for ids, side in ((own_ids, own), (other_ids, other)):
        is_ended = len(ids) > 0 and ids[-1] in side.end_ids
        has_end = has_end and is_ended
        pieces = [side.token_bytes[one] for one in (ids[:-1] if is_ended else ids)]
        if not all(pieces):
            return "control"
        joined = b"".join(pieces)
        has_prefix = side.has_prefix and joined == b" " + whole
        if joined != whole and not has_prefix:
            return "bytes"
        is_prefixed = is_prefixed or has_prefix
        bounds.append(np.cumsum([len(piece) for piece in pieces], dtype=np.int64) - has_prefix)
    common = np.intersect1d(bounds[0], bounds[1])
    after = np.stack([np.searchsorted(ends, common, side="right") for ends in bounds], 1)
    starts = np.concatenate([np.zeros((1, 2), dtype=np.int64), after])
    if not has_end:  # nothing begins where the text ends
        starts = starts[:-1]
    return starts[1:] if is_prefixed else starts


def events(own: Vocabulary, other: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """[V], [W] int64: what a token begins with, by its id on either side.

    Its first byte, END for what ends a turn, REST for all other tokens without a text and for bytes
    with which one of both vocabularies begins no token. END holds REST too where `own` has no such
    token, so that whatever `other` can say `own` can say.
    """
    firsts = [_first_bytes(side) for side in (own, other)]
    shared = np.intersect1d(firsts[0], firsts[1])
    own_V, other_W = (np.where(np.isin(first, shared), first, REST) for first in firsts)
    if REST not in own_V:
        other_W = np.where(other_W == REST, END, other_W)
    return own_V, other_W


def _first_bytes(side: Vocabulary) -> np.ndarray:
    return np.array(
        [
            END if place in side.end_ids else piece[0] if piece else REST
            for place, piece in enumerate(side.token_bytes)
        ],
        dtype=np.int64,
    )


def spans_of(readings: Sequence[Reading], own_lengths: Sequence[int]) -> tuple[Spans, np.ndarray]:
    """Of texts one after the other, whose targets are so many; and how many spans each has."""
    other_lengths = np.array([len(one.token_ids) for one in readings], dtype=np.int64)
    lengths = np.stack([np.array(own_lengths, dtype=np.int64), other_lengths])
    firsts = (lengths.cumsum(1) - lengths).T
    starts = [one.starts + first for one, first in zip(readings, firsts, strict=True)]
    own, other = np.concatenate(starts).T
    num_spans = np.array([len(one) for one in starts])
    return Spans(own.copy(), other.copy(), lengths[0], other_lengths), num_spans


def _joined(ids: Sequence[int], side: Vocabulary) -> bytes:
    return b"".join(side.token_bytes[one] for one in ids)


def _byte_level(token: str) -> bytes:
    """A token that is no sequence of bytes' characters stands for itself."""
    table = _characters()
    if all(character in table for character in token):
        return bytes(table[character] for character in token)
    return token.encode()


def _sentence_piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE, " ").encode()


@cache
def _characters() -> dict[str, int]:
    """What GPT-2's alphabet writes for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(256 + place): byte for place, byte in enumerate(hidden)
    }
