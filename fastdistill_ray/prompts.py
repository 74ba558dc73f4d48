"""Problem -> messages -> chat template -> token ids. Teacher and student prompts may differ."""

from pydantic import Field

from fastdistill_ray.knobs import Knobs

SYSTEM_PROMPT = (
    "Solve the user's problem. First reason step by step between <think> and </think>. Then give "
    "the result between <answer> and </answer>, with the final value or option letter inside "
    "\\boxed{}."
)


class Shot(Knobs):
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1, description="The whole assistant turn, in the format asked.")


class PromptKnobs(Knobs):
    system: str = Field(SYSTEM_PROMPT, description="System text; empty: none is sent.")
    shots: list[Shot] = Field([], description="Worked examples put before the question.")
