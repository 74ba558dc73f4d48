"""Who is asked about texts that are there. No Ray, no vLLM."""

from pydantic import Field

from fastdistill_ray.generation.knobs import EngineKnobs
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.prompts import PromptKnobs


class ScorerKnobs(Knobs):
    FREE = frozenset({"model"})

    model: str = Field(min_length=1, description="Hub id, folder or .gguf file.")
    prompt: PromptKnobs = PromptKnobs()
    engine: EngineKnobs = EngineKnobs()
