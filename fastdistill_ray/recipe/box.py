"""The recipe of a box of tools (`fastdistill box`, AgentDistill, arXiv 2506.14728)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from fastdistill_ray.agents.knobs import AnswersKnobs, StudentKnobs, ToolsKnobs, WritingKnobs
from fastdistill_ray.cluster.pools import PoolKnobs, PoolsKnobs
from fastdistill_ray.generation.knobs import EngineKnobs, TeacherKnobs, pool_error
from fastdistill_ray.recipe.tree import AnyRecipe
from fastdistill_ray.tasks import TaskKnobs
from fastdistill_ray.verifiers import VerifierKnobs


class BoxRecipe(AnyRecipe):
    job: Literal["box"] = Field(description="The verb that runs this recipe.")
    tasks: list[TaskKnobs] = Field(
        min_length=1,
        description="The teacher's programs solve their training problems, the student is asked "
        "their test problems.",
    )
    teacher: TeacherKnobs = Field(
        description="It writes programs; engine.kind scripted: without a model, for +, -, *, gcd "
        "and lcm of two numbers."
    )
    writing: WritingKnobs = WritingKnobs()
    tools: ToolsKnobs = ToolsKnobs()
    student: StudentKnobs
    answers: AnswersKnobs = AnswersKnobs()
    verifier: VerifierKnobs = VerifierKnobs()
    pools: PoolsKnobs = PoolsKnobs()

    @property
    def is_scripted(self) -> bool:
        """Whether the teacher is no model."""
        return self.teacher.engine.kind == "scripted"

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        writing, answers, engine = self.writing, self.answers, self.teacher.engine
        if writing.n > 1 and writing.temperature == 0:
            raise ValueError(f"writing.temperature: 0 makes {writing.n} equal programs; raise it")
        if isinstance(engine, EngineKnobs) and writing.max_new_tokens >= engine.max_model_len:
            raise ValueError(
                f"writing.max_new_tokens: {writing.max_new_tokens} leaves no room for the prompt "
                f"in teacher.engine.max_model_len = {engine.max_model_len}"
            )
        if answers.most_tokens >= answers.engine.max_model_len:
            raise ValueError(
                f"answers.max_new_tokens: it and {answers.max_calls} calls take up to "
                f"{answers.most_tokens} tokens, which leaves no room for the prompt in "
                f"answers.engine.max_model_len = {answers.engine.max_model_len}"
            )
        pools = self.pools
        errors = [pool_error("pools.evaluation", answers.engine, *_size(pools.evaluation))]
        if not self.is_scripted:
            errors.append(pool_error("pools.teacher", engine, *_size(pools.teacher)))
        for error in filter(None, errors):
            raise ValueError(error)
        return self


def _size(pool: PoolKnobs) -> tuple[int, int]:
    return pool.workers, pool.gpus
