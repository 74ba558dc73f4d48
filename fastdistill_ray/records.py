"""The records that flow between stages and their Arrow schemas; no logic.

problem -> prompt -> group of completions. A group is one problem with all its completions: it is
scored, kept, stored, sharded and trained on as one. Lengths are tokens, times are seconds.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, get_args

import pyarrow as pa

# Kinds of answer that a file may name; of kind scored are problems whose data set judges itself.
WrittenKind = Literal["number", "math", "choice", "text", "list"]
WRITTEN_KINDS: tuple[WrittenKind, ...] = get_args(WrittenKind)
Kind = Literal[WrittenKind, "scored"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Verdict = Literal["correct", "wrong", "unparsable", "truncated", "timeout", "error"]
VERDICTS: tuple[Verdict, ...] = (
    "correct",
    "wrong",
    "unparsable",
    "truncated",
    "timeout",
    "error",
)
Split = Literal["train", "validation", "test", "ood"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "ood")


class Message(TypedDict):
    role: str
    content: str


@dataclass(frozen=True)
class Problem:
    """A question whose answer can be checked; `problem_id` never changes and is unique in a run.

    `tolerance` is how far off a numeric answer of kind number, math or list may be, inclusive;
    None: exact. It is absolute: where a data set tolerates a share, its loader multiplies that with
    the size of the reference, of a list with that of its smallest item.

    `scorer` is what kind scored is judged by, in place of the reference: see `verifiers/scored.py`.

    Problems made from one another, such as variants of one question, share a `cluster`; empty: this
    one has no such others. Only what is said of evaluated problems depends on it.
    """

    problem_id: str
    task: str
    split: Split
    question: str
    reference: str
    kind: Kind
    options: list[str] = field(default_factory=list)
    tolerance: float | None = None
    scorer: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Judgement:
    """What a verifier says of one completion: verdict, the answer it extracted, and why."""

    verdict: Verdict
    answer: str
    reason: str


SCORE = pa.struct([("name", pa.string()), ("value", pa.float64())])


class CompletionRow(TypedDict):
    """COMPLETION as a Python object."""

    text: str
    token_ids: list[int]
    finish_reason: str
    num_tokens: int
    seed: int
    verdict: Verdict
    answer: str
    reason: str
    scores: list[dict[str, Any]]
    reward: float | None
    is_selected: bool
    advantage: float | None


class Vote(TypedDict):
    """VOTE as a Python object."""

    answer: str
    num_votes: int
    agreement: float
    verdict: Verdict | None


VOTE = pa.struct(
    [
        ("answer", pa.string()),  # of most completions; "": none gave one that can be read
        ("num_votes", pa.int32()),  # completions that gave one; the others abstain
        ("agreement", pa.float64()),  # share of the votes that the answer has
        ("verdict", pa.string()),  # of the answer by the reference; null: there is none
    ]
)
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
COMPLETION = pa.struct(
    [
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),  # "stop", "length", "repetition" (a loop) or "abort"
        ("num_tokens", pa.int32()),
        ("seed", pa.int64()),
        ("verdict", pa.string()),
        ("answer", pa.string()),
        ("reason", pa.string()),
        ("scores", pa.list_(SCORE)),  # raw, before the reward's weights; null: it failed
        ("reward", pa.float64()),
        ("is_selected", pa.bool_()),  # has a reward, and selection kept it: it may be trained on
        ("advantage", pa.float64()),
    ]
)
OTHER_PROMPT = pa.struct(
    [("messages", pa.list_(MESSAGE)), ("prompt_token_ids", pa.list_(pa.int32()))]
)
PROBLEM_FIELDS = [
    ("problem_id", pa.string()),
    ("task", pa.string()),
    ("split", pa.string()),
    ("question", pa.string()),
    ("reference", pa.string()),
    ("kind", pa.string()),
    ("options", pa.list_(pa.string())),
    ("tolerance", pa.float64()),  # null: exact
    ("scorer", pa.string()),
]
PROBLEM_SCHEMA = pa.schema([*PROBLEM_FIELDS, ("cluster", pa.string())])
# What an engine is asked: a problem rendered for one model.
REQUEST_SCHEMA = pa.schema(
    [
        *PROBLEM_FIELDS,
        ("messages", pa.list_(MESSAGE)),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("others", pa.list_(OTHER_PROMPT)),  # prompts of which further completions are drawn
        ("opening", pa.string()),  # what the prompt already holds of the assistant's own words
        ("end_id", pa.int32()),  # token with which a turn ends; null: EOS alone
        ("template_hash", pa.string()),  # of the chat template, system text and shots
        ("seed", pa.int64()),  # completion k is drawn with seed + k
    ]
)
# What was captured beyond text, flat over all tokens of all completions in order; null: nothing.
SIGNALS = [
    ("logprob_ids", pa.list_(pa.int32())),  # [tokens, 1 + k]: the token drawn, then the k likeliest
    ("logprobs", pa.list_(pa.float32())),  # of these ids, at temperature 1
]
GROUP_SCHEMA = pa.schema(
    [
        *PROBLEM_FIELDS,
        ("messages", pa.list_(MESSAGE)),
        ("template_hash", pa.string()),
        ("prompt_num_tokens", pa.int32()),
        ("teacher", pa.string()),
        ("sampling", pa.string()),  # JSON of the sampling section
        ("cost", pa.float64()),  # money paid for the completions
        ("taken_from", pa.string()),  # the stage that asked for them; null: the store's own
        ("round", pa.int32()),  # rounds that the student was trained which wrote; null: a teacher
        ("vote", VOTE),  # by which completions are judged; null: by the reference
        ("completions", pa.list_(COMPLETION)),
        *SIGNALS,
        ("dropped", pa.string()),  # "" when kept for training, else why not
    ]
)


class GroupRow(TypedDict):
    """GROUP_SCHEMA as a Python object, without SIGNALS, which stay Arrow arrays."""

    problem_id: str
    task: str
    split: Split
    question: str
    reference: str
    kind: Kind
    options: list[str]
    tolerance: float | None
    scorer: str
    messages: list[Message]
    template_hash: str
    prompt_num_tokens: int
    teacher: str
    sampling: str
    cost: float
    taken_from: str | None
    round: int | None
    vote: Vote | None
    completions: list[CompletionRow]
    dropped: str


# What a rank is given for one optimizer step: its share of the step's groups.
STEP_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int64()),
        ("ends_epoch", pa.bool_()),
        ("num_groups", pa.int64()),  # of all ranks
        ("groups", pa.list_(pa.struct([f for f in GROUP_SCHEMA if f.name not in dict(SIGNALS)]))),
        ("group_ids", pa.list_(pa.string())),  # of all ranks
    ]
)


class StepRow(TypedDict):
    """STEP_SCHEMA as a Python object."""

    step: int
    epoch: int
    ends_epoch: bool
    num_groups: int
    groups: list[GroupRow]
    group_ids: list[str]
