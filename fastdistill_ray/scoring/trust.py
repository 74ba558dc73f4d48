"""Whether a scorer can be trusted with texts, found out on the first that an actor asks about.

Legend: T tokens, E hidden.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fastdistill_ray.errors import UserError

# Most by which states of the same tokens may differ in two batches, as a share of their length, the
# mean over tokens. A batch decides in which order an engine adds: 25 units of the last place, 2^-8
# of bfloat16 and 2^-11 of float16, to which some GPUs round factors of float32 too. States of other
# tokens or places differ by about their own length.
TOLERANCE = {"bfloat16": 0.1, "float16": 0.0125, "float32": 0.0125}
NATS = 0.05  # a token, the mean over all; renderers that differ were seen to cost 0.3
DEVIATIONS = 2  # of the mean of few tokens, which says less


def check_same(who: str, dtype: str, first_TE: Tensor, second_TE: Tensor) -> None:
    """UserError where states of one text in two batches differ by more than its dtype's rounding;
    `who` is the scorer's field and name."""
    first_TE, second_TE = first_TE.double(), second_TE.double()
    apart_T = (first_TE - second_TE).norm(dim=-1) / first_TE.norm(dim=-1).clamp(min=1e-12)
    if not apart_T.mean() <= TOLERANCE[dtype]:  # nor where it is no number
        raise UserError(
            f"{who}: asked about one text in two batches, its engine gives states that differ by "
            f"{apart_T.mean():.0%} of their length; set extra: {{enable_prefix_caching: false}} or "
            "enforce_eager: true of its engine"
        )


def check_own(who: str, scored: Sequence[float], written: Sequence[float]) -> None:
    """UserError where log-probabilities of a scorer's own tokens are not those with which it wrote
    them, both at temperature 1 and in the same order.

    By the mean difference, in which rounding evens out, and which for other weights is a KL."""
    apart_T = np.asarray(written, np.float64) - np.asarray(scored, np.float64)
    mean = apart_T.mean()
    if not abs(mean) <= NATS + DEVIATIONS * apart_T.std() / len(apart_T) ** 0.5:
        raise UserError(
            f"{who}: tokens of its own texts are {mean:+.2f} nats less likely to it, asked about "
            f"them, than when it wrote them (at most {NATS} are rounding); its weights, tokenizer "
            "or chat template have changed, or its engine computes it otherwise: let it write them "
            "again in another --run-dir, or set scorer.model to the model that wrote them"
        )
