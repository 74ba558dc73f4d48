"""How models are asked the test problems."""

from typing import NamedTuple

from pydantic import Field

from fastdistill_ray.generation.knobs import EndpointKnobs, EngineKnobs, LoopRepeats
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.prompts import PromptKnobs


class EvaluationKnobs(Knobs):
    n: int = Field(
        default=1, ge=1, description="Completions per problem; more than 1 gives pass@k."
    )
    temperature: float = Field(default=0.0, ge=0, description="Sampling temperature; 0: greedy.")
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Nucleus sampling: draw from the likeliest tokens of this total probability.",
    )
    max_new_tokens: int = Field(default=2048, gt=0, description="Most tokens of a completion.")
    loop_repeats: LoopRepeats = 0
    seed: int = Field(default=0, description="Seed of sampling.")
    engine: EngineKnobs = EngineKnobs()


class Model(NamedTuple):
    """A row of the report: a model reference and the prompt it is asked with."""

    name: str
    weights: str  # or what its endpoint calls it
    prompt: PromptKnobs
    endpoint: EndpointKnobs | None = None  # who is asked, where it is no engine of ours
