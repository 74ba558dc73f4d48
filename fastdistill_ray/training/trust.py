"""Whether a model can be trusted with texts that it is asked about, found out on the first of them.

Legend: T tokens, E hidden.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from torch import Tensor

from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.outputs import completion_logprobs
from fastdistill_ray.records import SIGNALS
from fastdistill_ray.training.reading import Selected

# Most by which states of the same tokens may differ in two batches, as a share of their length, the
# mean over tokens. A batch decides in which order an engine adds: 25 units of the last place, 2^-8
# of bfloat16 and 2^-11 of float16, to which some GPUs round factors of float32 too. States of other
# tokens or places differ by about their own length.
TOLERANCE = {"bfloat16": 0.1, "float16": 0.0125, "float32": 0.0125}
NATS = 0.05  # a token, the mean over all; renderers that differ were seen to cost 0.3
DEVIATIONS = 2  # of the mean of few tokens, which says less


def check_same(who: str, dtype: str, first_TE: Tensor, second_TE: Tensor) -> None:
    """UserError where states of one text in two batches differ by more than its dtype's rounding;
    `who` is the model's field and name."""
    first_TE, second_TE = first_TE.double(), second_TE.double()
    apart_T = (first_TE - second_TE).norm(dim=-1) / first_TE.norm(dim=-1).clamp(min=1e-12)
    if not apart_T.mean() <= TOLERANCE[dtype]:  # nor where it is no number
        raise UserError(
            f"{who}: asked about one text in two batches, its engine gives states that differ by "
            f"{apart_T.mean():.0%} of their length; set extra: {{enable_prefix_caching: false}} or "
            "enforce_eager: true of its engine"
        )


class Apart:
    """By how much tokens are less likely to a model than when it wrote them, in nats at temperature
    1: counts and sums, which add up over ranks."""

    def __init__(self, sums: Sequence[float]) -> None:
        self.sums = list(sums)

    @classmethod
    def of(cls, written_T: np.ndarray, said_T: np.ndarray) -> "Apart":
        """Tokens without a number of who wrote them do not count."""
        is_known_T = ~np.isnan(written_T)
        apart_T = (written_T.astype(np.float64) - said_T)[is_known_T]
        return cls([len(apart_T), apart_T.sum(), np.square(apart_T).sum()])

    def check(self, who: str) -> None:
        """UserError where it is more than rounding. By the mean, in which that evens out, and which
        for other weights is a KL."""
        count, total, squares = self.sums
        if not count:
            return
        mean = total / count
        deviation = max(0.0, squares / count - mean**2) ** 0.5
        if not abs(mean) <= NATS + DEVIATIONS * deviation / count**0.5:
            raise UserError(
                f"{who}: tokens of its own texts are {mean:+.2f} nats less likely to it, asked "
                f"about them, than when it wrote them (at most {NATS} are rounding); its weights, "
                "tokenizer or chat template have changed, or it is computed otherwise: let it "
                "write them again in another --run-dir, or set scorer.model to the model that "
                "wrote them"
            )


def written_logprobs(row: pa.Table, texts: Sequence[Selected]) -> list[list[float]]:
    """Log-probabilities with which the first tokens of each text were drawn, as the one row of a
    store notes them; empty where it does not, or of other ids than the text's."""
    arrays = [row[name].combine_chunks() for name, _ in SIGNALS]
    if any(array.null_count for array in arrays):
        return [[] for _ in texts]
    ids, logprobs = (array.flatten().to_numpy() for array in arrays)
    (completions,) = row["completions"].to_pylist()
    drawn = completion_logprobs(ids, logprobs, [one["num_tokens"] for one in completions])
    found = [(drawn[one.place], one.ids) for one in texts]
    return [
        values[:, 0].tolist() if drawn_ids[:, 0].tolist() == own[: len(drawn_ids)] else []
        for (drawn_ids, values), own in found
    ]
