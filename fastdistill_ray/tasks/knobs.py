"""The recipe's section `task`."""

from typing import Any, Literal

from pydantic import Field

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.records import Split, WrittenKind

JsonlField = Literal["question", "answer", "kind", "options", "tolerance", "id", "split", "cluster"]


class OodKnobs(Knobs):
    FREE = frozenset({"path"})

    name: str = Field(description="A name in TASKS: its test problems are this recipe's ood.")
    path: str = Field(
        default="", description="A local file or folder instead of the hub's dataset."
    )
    kind: WrittenKind | None = Field(
        default=None,
        description="jsonl and hub: kind of answer of problems that name none; none: task.kind.",
    )
    columns: dict[JsonlField, str] = Field(
        default={}, description="jsonl and hub: as task.columns, of these rows."
    )


class TaskKnobs(Knobs):
    FREE = frozenset({"path"})

    name: str = Field(description="A name in TASKS, or reasoning_gym:<dataset>.")
    path: str = Field(
        default="",
        description="A local file or folder instead of the hub's dataset; hub: the dataset's name "
        "there, such as org/name.",
    )
    config: str = Field(default="", description="hub: configuration of the dataset.")
    revision: str = Field(
        default="",
        description="Commit, tag or branch of the hub's dataset; empty: its latest.",
    )
    splits: dict[Split, str] = Field(
        default={},
        description="hub: splits of the dataset by ours, as in {train: train, test: validation}; "
        "empty: those with our names.",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of generated problems and of held-out splits."
    )
    num_train: int | None = Field(
        default=None, ge=1, description="Training problems to use; none: all."
    )
    num_validation: int = Field(
        default=0, ge=0, description="Training problems held out for validation."
    )
    num_test: int | None = Field(
        default=None,
        ge=0,
        description="Test problems to use; none: all, or as many as the paper held out; of jsonl "
        "and hub without test lines a fifth of the problems, at most 200.",
    )
    num_ood: int | None = Field(
        default=None, ge=0, description="Out-of-domain problems to use; none: all."
    )
    ood: OodKnobs | None = Field(
        default=None,
        description="Another task whose test problems are asked beside those of this one.",
    )
    decontaminate: int = Field(
        default=13,
        ge=0,
        description="Training and validation problems that share this many words in a row with a "
        "test or ood problem are dropped; 0: none. Not where problems are made from templates and "
        "differ by numbers alone (word_problems, reasoning_gym, svamp, asdiv, mawps).",
    )
    columns: dict[JsonlField, str] = Field(
        default={},
        description="jsonl and hub: columns of the rows by field; a dot goes into an object or a "
        "list, as in {question: messages.0.content, answer: messages.-1.content}.",
    )
    unlabelled: bool = Field(
        default=False,
        description="jsonl and hub: training lines need no answer, which reward.reference: vote "
        "does not need either.",
    )
    kind: WrittenKind = Field(
        default="number", description="jsonl and hub: kind of answer of problems that name none."
    )
    settings: dict[str, Any] = Field(
        default={}, description="reasoning_gym: arguments of the dataset, such as {max_terms: 3}."
    )
