"""Last hidden states of a text's tokens -> the signals that are stored of them.

Legend: T tokens, E hidden, V vocabulary, N draws, B tokens of a block, whose logits exist at once.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from fastdistill_ray.groups.signals import Arrays, Signal, packed_int8
from fastdistill_ray.training.frozen import FrozenHead
from fastdistill_ray.training.head import Readout, capped, wide
from fastdistill_ray.training.student import logprob_of

BLOCK_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}  # of a block's logits in float32
BELOW_ONE = 1 - 2**-23  # a draw times this lies before the end of the last token with any mass


@torch.no_grad()
def measured(
    signal: Signal, hidden_TE: Tensor, ids_T: Tensor, head: FrozenHead | None, seed: int
) -> Arrays:
    """Flat arrays of the signal's kind; row t of `hidden_TE` predicts token t of `ids_T`.

    `head` is needed by all kinds but hidden states; `seed` decides random draws.
    """
    if signal.kind == "hidden":
        if signal.size == 8:
            return packed_int8(hidden_TE.float().cpu().numpy())
        return {"hidden": hidden_TE.bfloat16().view(torch.uint16).cpu().numpy().ravel()}
    assert head
    readout = head.readout(hidden_TE.to(head.weight.device))
    if signal.kind == "chosen":
        logprob_T = logprob_of(readout, ids_T.to(head.weight.device))
        return {"values": logprob_T.float().cpu().numpy()}
    logits = _logits(readout, signal.temperature)
    return _topk(logits, signal.size) if signal.kind == "topk" else _random(logits, signal, seed)


def _logits(readout: Readout, temperature: float) -> Iterator[Tensor]:
    """[B, V] of one block of tokens after the other, in float32 or wider."""
    hidden_TE, weight_VE, bias_V, softcap = readout
    size = max(1, BLOCK_BYTES[weight_VE.device.type] // (4 * len(weight_VE)))
    for block in hidden_TE.split(size):
        logits_BV = capped(wide(nn.functional.linear(block, weight_VE, bias_V)), softcap)
        yield logits_BV if temperature == 1 else logits_BV / temperature


def _topk(logits: Iterator[Tensor], k: int) -> Arrays:
    """The rest's mass is summed itself: 1 minus that of the k would be rounding where it is
    small."""
    found: dict[str, list[Tensor]] = {"ids": [], "values": [], "rest": []}
    for logits_BV in logits:
        normaliser_B = logits_BV.logsumexp(-1)
        top_BK, ids_BK = logits_BV.topk(k)
        rest_B = logits_BV.scatter_(1, ids_BK, -torch.inf).logsumexp(-1)
        found["ids"].append(ids_BK.ravel())
        found["values"].append((top_BK - normaliser_B[:, None]).ravel())
        found["rest"].append(rest_B - normaliser_B)
    return {name: torch.cat(parts).cpu().numpy() for name, parts in found.items()}


def _random(logits: Iterator[Tensor], signal: Signal, seed: int) -> Arrays:
    """Drawn by the inverse of the cumulative distribution, then sorted and counted."""
    random, drawn = np.random.default_rng(seed), []
    for logits_BV in logits:
        sums_BV = logits_BV.softmax(-1).cumsum(-1)
        draws_BN = torch.from_numpy(random.random((len(sums_BV), signal.size), dtype=np.float32))
        draws_BN = draws_BN.to(sums_BV) * BELOW_ONE * sums_BV[:, -1:]
        drawn.append(torch.searchsorted(sums_BV, draws_BN, right=True).cpu().numpy())
    ids_TN = np.sort(np.concatenate(drawn))
    is_new_TN = np.ones(ids_TN.shape, dtype=bool)
    is_new_TN[:, 1:] = ids_TN[:, 1:] != ids_TN[:, :-1]
    starts = np.flatnonzero(is_new_TN)
    return {
        "sizes": is_new_TN.sum(1),
        "ids": ids_TN[is_new_TN],
        "counts": np.diff(starts, append=ids_TN.size),
    }
