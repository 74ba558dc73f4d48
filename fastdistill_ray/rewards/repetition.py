"""A penalty on text that repeats itself."""

from pydantic import Field

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.text import rep_n


class RepetitionKnobs(Knobs):
    """Share of repeated n-grams of words (arXiv 2502.03373, App. C.2, in its scalar form)."""

    ngram: int = Field(
        default=4, ge=1, description="Words of an n-gram; white space separates words."
    )
    max_penalty: float = Field(
        default=-1.0, le=0, description="Score where every n-gram were a repeat."
    )
    only_wrong: bool = Field(
        default=False, description="Only wrong completions are penalised; correct ones score 0."
    )


def repetition_score(text: str, is_correct: bool, knobs: RepetitionKnobs) -> float:
    """max_penalty * (1 - unique n-grams / n-grams); 0 for a text shorter than an n-gram."""
    if is_correct and knobs.only_wrong:
        return 0.0
    return 0.0 + knobs.max_penalty * rep_n(text, knobs.ngram)
