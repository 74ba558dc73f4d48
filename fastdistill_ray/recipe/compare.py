"""Who is compared: students trained on the same groups, and models that are only asked.

The recipe's own objective makes one student, named by its kind; `compare.students` adds others.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from fastdistill_ray.groups.rewriting import RewriteKnobs
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.objectives import OBJECTIVES, Objective
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.rewards.selection import WHOLE, Part
from fastdistill_ray.rounds.knobs import RoundsKnobs
from fastdistill_ray.training.knobs import InitKnobs

NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"  # also of a file or folder
NAME_OR_NONE = r"^([A-Za-z0-9_-][A-Za-z0-9_.-]*)?$"


class ComparedStudent(Knobs):
    """In a recipe the objective's own fields (kind, tau, ...) stand beside these."""

    name: str = Field(
        default="",
        pattern=NAME_OR_NONE,
        description="Name of its row in the report, unique; empty: its kind.",
    )
    model: str = Field(
        default="", description="Hub id, folder or .gguf file; empty: student.model."
    )
    init: InitKnobs = Field(
        default=InitKnobs(),
        description="It begins with some decoder blocks of its model, as student.init says.",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="Peak learning rate of its training; none: optimizer.learning_rate, or those "
        "of compare.learning_rates.",
    )
    group_size: int | None = Field(
        default=None,
        ge=1,
        description="Completions of each group it is trained on, chosen, filtered and weighted "
        "anew by selection; none: all that selection leaves.",
    )
    teacher: str = Field(
        default="",
        pattern=NAME_OR_NONE,
        description="Name of a student before it, which once trained is its teacher, wherever it "
        "learns from distributions; empty: `teacher` or `scorer`.",
    )
    start: str = Field(
        default="",
        pattern=NAME_OR_NONE,
        description="Name of a student before it, whose weights at its training's end it begins "
        "with; empty: those of its model.",
    )
    writer: str = Field(
        default="",
        pattern=NAME_OR_NONE,
        description="Name of a student before it, which once trained writes the groups that this "
        "one is trained on, as sampling and student.prompt say; empty: the teachers'.",
    )
    labels: Literal["gold", "vote", "none"] | None = Field(
        default=None,
        description="What the completions of `writer` are judged by: gold and vote as "
        "reward.reference has them; 'none': every group is kept, right or wrong, and nothing but "
        "its texts is trained on; not set: reward.reference.",
    )
    rewrite: RewriteKnobs | None = Field(
        default=None,
        description="Where the answers of `writer` to a problem differ, the student as it begins "
        "answers it anew after reading one of them and how often each was given, and is trained on "
        "that; none: on all that `writer` wrote.",
    )
    problems: Part = Field(
        default=WHOLE,
        description="The part of the training problems it is trained on, as selection.problems.",
    )
    rounds: RoundsKnobs | None = Field(
        default=None,
        description="It is trained on texts of its own, as rounds of the recipe says; none: on the "
        "groups of the store.",
    )
    objective: Objective = Field(
        exclude=True,
        description=f"{', '.join(OBJECTIVES)}; and the fields of that kind, as in objective.",
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_objective(cls, entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        fields = [name for name in cls.model_fields if name != "objective"]
        own = {name: entry[name] for name in fields if name in entry}
        return {**own, "objective": {k: v for k, v in entry.items() if k not in own}}

    @model_serializer(mode="wrap")
    def _spread_objective(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**serialize(self), **self.objective.model_dump(mode="json", by_alias=True)}


class ComparedModel(Knobs):
    """A model that is asked as it is, with a prompt of its own."""

    name: str = Field(pattern=NAME, description="Name of its row in the report, unique.")
    model: str = Field(min_length=1, description="Hub id, folder or .gguf file.")
    prompt: PromptKnobs = PromptKnobs()


class Ensemble(Knobs):
    """Trained students that answer together: what most of them answer counts."""

    name: str = Field(pattern=NAME, description="Name of its row in the report, unique.")
    of: list[str] = Field(
        min_length=2,
        description="Names of students. Where as many of them give another answer, that of the one "
        "named first counts, and its text where none can be read. Of several seeds it is the first "
        "one's student; that of a further one is named <name>-seed_<seed>.",
    )


Baseline = Literal["base", "base_plain", "teacher"]
# A word or a table, told apart by what it is, so that an error is about the one that was meant.
AnyBaseline = Annotated[
    Annotated[Baseline, Tag("<word>")] | Annotated[ComparedModel, Tag("<table>")],
    Discriminator(lambda entry: "<word>" if isinstance(entry, str) else "<table>"),
]


class CompareKnobs(Knobs):
    """The students made and the models they are compared with, on the same test problems."""

    students: list[ComparedStudent] = Field(
        default=[], description="Objectives trained on the same groups beside the recipe's own."
    )
    baselines: list[AnyBaseline] = Field(
        default=["base", "teacher"],
        description="base: the student before training; base_plain: without a system text; or "
        "{name, model, prompt}, such as a base with worked examples.",
    )
    ensembles: list[Ensemble] = Field(
        default=[],
        description="Votes of trained students on the test problems; no model is asked for them.",
    )
    learning_rates: list[Annotated[float, Field(gt=0)]] = Field(
        default=[],
        description="Tried for every student, chosen by validation accuracy; empty: the "
        "optimizer's, no trial.",
    )
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default=[],
        description="Every training is done once with each of these as training.seed, a student is "
        "all of them; empty: training.seed alone.",
    )
    epochs: list[int] = Field(
        default=[], description="Ends of these epochs are trials too; empty: the last epoch only."
    )
