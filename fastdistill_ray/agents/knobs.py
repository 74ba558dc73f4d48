"""What a box of tools is made of and how a student is given it. No Ray, no vLLM."""

from pydantic import Field, field_validator

from fastdistill_ray.evaluation.knobs import EvaluationKnobs
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.prompts import PromptKnobs

IMPORTS = (
    "bisect cmath collections datetime decimal fractions functools heapq itertools math numbers "
    "operator re statistics string typing"
)
TEACHER_PROMPT = (
    "Solve the user's problem by a Python program. Write one block ```python ... ``` that defines "
    "a small function with parameters for the general problem, with a docstring that says what it "
    "returns, calls it with the numbers of this problem, and puts the final result into the "
    "variable answer. Use the standard library only, no files and no network."
)
STUDENT_PROMPT = "Solve the user's problem. Give the final value inside \\boxed{}."


class WritingKnobs(Knobs):
    """How a teacher writes programs; of a scripted one only `n` and `seed` count."""

    n: int = Field(default=1, ge=1, description="Programs written for each training problem.")
    temperature: float = Field(default=0.0, ge=0, description="Sampling temperature; 0: greedy.")
    max_new_tokens: int = Field(default=1024, gt=0, description="Most tokens of a program.")
    seed: int = Field(default=0, ge=0, description="Seed of sampling.")


class LimitKnobs(Knobs):
    """Of every process that a tool, or a program of the teacher, runs in."""

    time_limit: float = Field(default=2.0, gt=0, description="Seconds of wall clock for a call.")
    memory_limit_gib: float = Field(
        default=0.5, gt=0, description="Most address space of a tool's process."
    )


class ToolsKnobs(LimitKnobs):
    """How tools are made of programs, and which are refused."""

    imports: list[str] = Field(
        default=[str(name) for name in IMPORTS.split()],
        description="Modules that a tool may import; others are refused.",
    )
    num_arguments: int = Field(
        default=16,
        ge=2,
        description="Sets of arguments that no program used, by which tools are compared and "
        "tested.",
    )
    min_traces: int = Field(
        default=1,
        ge=1,
        description="Programs for different problems that a tool must come from; 2 or more keeps "
        "out what was right once by luck.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the arguments.")


class StudentKnobs(Knobs):
    FREE = frozenset({"model"})

    model: str = Field(min_length=1, description="Hub id, folder or .gguf file.")
    prompt: PromptKnobs = PromptKnobs(system=STUDENT_PROMPT)


class AnswersKnobs(EvaluationKnobs):
    """How the student answers the test problems, without the box and with it."""

    max_calls: int = Field(default=1, ge=1, description="Most calls of tools for a problem.")
    max_call_tokens: int = Field(
        default=96,
        gt=0,
        description="Most tokens of a call, and most characters of its result: one that gives more "
        "has failed.",
    )
    examples: bool = Field(
        default=True,
        description="A training problem for each tool stands before the question, solved: with "
        "the box by a call of the tool, without it by its answer.",
    )

    @property
    def most_tokens(self) -> int:
        """Of all turns: what a tool gives takes as much room as its call, at most."""
        return self.max_new_tokens + 2 * self.max_calls * self.max_call_tokens

    @field_validator("n")
    @classmethod
    def _one(cls, n: int) -> int:
        if n != 1:
            raise ValueError("with and without the box are compared by one answer to a problem")
        return n
