"""Which groups of a store are held out of training: a seeded share, decided by their keys."""

import hashlib

import numpy as np
import pyarrow as pa


def num_held_out(share: float, num_groups: int) -> int:
    """At least one where a share is asked for and one is left to train."""
    if share == 0 or num_groups < 2:
        return 0
    return max(1, round(share * num_groups))


def held_out(keys: pa.ChunkedArray, share: float, seed: int) -> pa.Array:
    """A mask over the keys; a hash of seed and key decides, whatever their order."""
    mask = np.zeros(len(keys), dtype=bool)
    if number := num_held_out(share, len(keys)):
        texts = (f"{seed}/{key}".encode() for key in keys.to_pylist())
        draws = [hashlib.sha256(text).digest() for text in texts]
        mask[sorted(range(len(draws)), key=lambda row: draws[row])[:number]] = True
    return pa.array(mask)
