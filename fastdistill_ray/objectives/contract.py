"""What an objective needs, what it is given and what it returns.

`needs` says what there must be beside the student's log-probabilities of the targets, so that a
recipe that cannot give it is refused before any work; `targets` turns a scored group into
coefficients, once, in numpy; calling the objective turns what the models say into `Term`s;
`group_weights` says how much a completion counts in the weighted likelihoods of held-out groups,
which decide nothing. The training loop divides each term by the count of its denominator over the
whole step and all ranks, so packing cannot change the loss.
Legend: K target tokens, C completions and G groups of a micro-batch. Everything is float32.
"""

from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from fastdistill_ray.groups.signals import Signal, Signals
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.rewards.advantages import softmax_weights

Tensor = Any  # a torch.Tensor: recipes are parsed where torch is not installed
PAPER_TAU = 0.5  # temperature of eq. 7 of arXiv 2507.00054
# Counts of a step; "step" is 1. "unique_tokens" are all that it computes but padding.
# "explained" are groups whose thoughts are trained apart.
Denominator = Literal[
    "groups", "explained", "completions", "tokens", "spans", "unique_tokens", "step"
]
# Of p, the frozen model's, and q, the student's: KL(p, q); KL(q, p); KL(p, a p + (1 - a) q);
# KL(q, a q + (1 - a) p); a KL(p, m) + (1 - a) KL(q, m) with m = a p + (1 - a) q; half the L1.
Divergence = Literal["forward_kl", "reverse_kl", "skew_kl", "skew_reverse_kl", "jsd", "tvd"]


# In place of a block, whose output is otherwise meant:
LAST = -1  # the state that the head reads, after the final norm
FIRST = -2  # the state that the first block reads, the tokens' embeddings


class Measure(NamedTuple):
    """How two distributions over the vocabulary are compared at every target token."""

    kind: Divergence
    alpha: float = 0.5  # of the mixtures, between 0 and 1; other kinds have none
    temperature: float = 1.0  # of both sides


class Relations(NamedTuple):
    """Which relations of tokens to those before them are compared, in a block of each model."""

    blocks: tuple[int, int]
    # That what makes queries, keys and values is split into, each related to itself. 0: the heads
    # of the models, queries related to keys, as attention is computed, and values to themselves.
    num_heads: int


class Across(NamedTuple):
    """How distributions of models with two tokenizers are compared, wherever both have a token's
    end at the same byte of the text (`training/alignment.py`)."""

    # Probabilities in order of size, whatever they are of; of the byte that comes next; of some of
    # the likeliest tokens of a text in their order, and how they move through it; of the bytes of
    # a span, by the other model alone.
    kind: Literal["sorted", "bytes", "levels", "chunks"]
    temperature: float = 1.0  # of both sides
    k: int = 0  # of levels, tokens of a text
    epsilon: float = 0.0  # of levels, share of the entropy of Sinkhorn's plan
    iterations: int = 0  # of levels, Sinkhorn's


class Views(NamedTuple):
    """A completion is trained as two texts: what follows its thoughts, after the student's own
    prompt, by its weight; and the thoughts, after a prompt with another system text, by its
    penalty."""

    system: str  # of the thoughts; empty: they are not trained


class Wanted(NamedTuple):
    """What of one model's inside is compared."""

    blocks: tuple[int, ...] = ()  # their outputs at the targets, [K, D]
    related: int | None = None  # the block whose queries, keys and values are, of all tokens
    num_heads: int = 0  # as `Relations` has it
    whole: bool = False  # the outputs of all tokens too, [R, L, D]


NOTHING = Wanted()


class Needs(NamedTuple):
    """What an objective's loss is made of beside the log-probabilities of the targets."""

    # A model beside the student in every worker that does not train: the recipe's teacher with its
    # own prompt, or the student as it begins.
    frozen: Literal["", "teacher", "student"] = ""
    # Of the frozen model's distributions and the student's; none: its log-probabilities instead.
    measure: Measure | None = None
    # In place of `measure`, of the completions with a penalty.
    penalty_measure: Measure | None = None
    # Temperature at which both say how likely two tokens are, the frozen model's likeliest and the
    # student's; 0: neither is asked.
    likeliest: float = 0.0
    # Beside these, the student's mean log-probability of all tokens but that model's likeliest.
    others: bool = False
    # Tokens that the student finds likeliest, of which it and the frozen model, where there is one,
    # say how likely they are; 0: none.
    top: int = 0
    # The frozen model's log-probabilities of the targets, beside what else it says.
    frozen_logprob: bool = False
    # The log-probabilities with which the targets were drawn, as a student's own texts have them.
    written: bool = False
    # Texts that the student wrote itself, as it was shortly before.
    rounds: bool = False
    mixed: bool = False  # texts that teachers wrote beside them
    # Pairs of a block of the student and one of the frozen model whose outputs are compared.
    taps: tuple[tuple[int, int], ...] = ()
    # One matrix that is trained beside the student takes all its compared outputs to the width of
    # the frozen model; without it both have one width.
    bridge: bool = False
    relations: Relations | None = None
    # Behind a block of `taps` the student goes on with the frozen model's state of that pair, in
    # place of its own.
    fed: bool = False
    # In place of `measure`, with a frozen model whose tokenizer need not be the student's.
    across: Across | None = None
    # What is stored of the texts in place of a frozen model. With hidden states, `measure` says how
    # the distributions are compared that both heads make.
    signal: Signal | None = None
    views: Views | None = None  # none: a completion is one text
    # Completions of a group are compared with each other, so that one micro-batch has all of them.
    whole_groups: bool = False

    def wanted(self, side: Literal[0, 1]) -> Wanted:
        """Of the student, 0, or of the frozen model, 1."""
        blocks = tuple(pair[side] for pair in self.taps)
        if self.fed:  # the student is asked for another time
            return Wanted(blocks, whole=True) if side else NOTHING
        if not self.relations:
            return Wanted(blocks)
        return Wanted(blocks, self.relations.blocks[side], self.relations.num_heads)

    @property
    def speaker(self) -> Literal["", "teacher", "student"]:
        """Whose thoughts of the texts are needed, in training or before it."""
        return self.signal.by if self.signal else self.frozen


class ObjectiveKnobs(Knobs):
    """The base of every objective: what reports, plots and errors call it stands on its class.

    An objective also has `kind` (a Literal with its default), its knobs, `targets`, `group_weights`
    and `__call__`; `AdvDistill` shows all of them.
    """

    label: ClassVar[str]  # in a sentence: "AdvDistill"
    described: ClassVar[str]  # in a table: "SFT on best completion"
    colour: ClassVar[str]  # in plots
    terms: ClassVar[dict[str, str]]  # name of each Term -> title of its panel
    min_completions: ClassVar[int] = 1  # a group that shrinks below this is not trained on

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def trains_one(self) -> bool:
        """Whether it trains one completion of a group at most."""
        return False

    def describe(self) -> str:
        """What a table calls it with these knobs."""
        return self.described


class Scored(NamedTuple):
    """One completion of a group as its objective sees it; num_tokens are its writer's."""

    is_correct: bool
    reward: float
    advantage: float
    num_tokens: int
    by_student: bool = False  # who wrote it, in rounds


class Target(NamedTuple):
    """A completion to train on: place in its group, coefficients of its loss and its penalty."""

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # hides tuple.index
    weight: float
    penalty: float


class LossBatch(NamedTuple):
    """The constants of a micro-batch's loss."""

    completion: Tensor  # [K] int64, which completion a target token belongs to
    lengths: Tensor  # [C] target tokens of each completion
    weight: Tensor  # [C]
    penalty: Tensor  # [C]
    group: Tensor  # [C] int64, which group of the micro-batch a completion is of
    is_own: Tensor | None = None  # [K] 1 of the completion itself, 0 of its prompt; None: all 1
    # [C] spans of each completion, where a frozen model reads it by a tokenizer of its own.
    spans: Tensor | None = None
    progress: float = 0.0  # share of the training's updates that are done

    def mean_own_tokens(self, values: Tensor) -> Tensor:
        """[K] -> [C]: the mean over each completion's own tokens, whatever else is trained."""
        if self.is_own is None:
            return self.sum_tokens(values) / self.lengths
        return self.sum_tokens(values * self.is_own) / self.sum_tokens(self.is_own)

    def sum_tokens(self, values: Tensor) -> Tensor:
        """[K] -> [C]: the sum over each completion's target tokens.

        In float64, so that the order in which CUDA adds all but never reaches float32.
        """
        doubles = values.double()
        sums = doubles.new_zeros(len(self.lengths)).index_add(0, self.completion, doubles)
        return sums.to(values.dtype)

    def sum_completions(self, values: Tensor) -> Tensor:
        """[C] -> [C], of which the first G are the sums over each group; the others are 0."""
        return values.new_zeros(len(values)).index_add(0, self.group, values)


class Outputs(NamedTuple):
    """What the models say of the target tokens."""

    logprob: Tensor  # [K], by the student
    router: Tensor | None = None  # loss of a mixture of experts' choices, which training adds
    divergence: Tensor | None = None  # [K], by `Needs.measure` and `Needs.penalty_measure`
    # [K], by the frozen model where nothing is measured or it is asked for, or as the signal
    # `chosen` has it.
    frozen_logprob: Tensor | None = None
    # [K, 2] by the student and by the frozen model: log-probabilities of the frozen model's
    # likeliest token and of the student's, which are -inf where that is the same.
    likeliest: tuple[Tensor, Tensor] | None = None
    others: Tensor | None = None  # [K], by `Needs.others`
    signals: Signals | None = None  # of the kinds random and topk, and of their ids by the student:
    picked: Tensor | None = None  # [K, M] log-probabilities, at the signal's temperature
    rest: Tensor | None = None  # [K] log-mass of all others
    # Of the student's likeliest tokens: [K, M] by the student and by the frozen model, if there is
    # one, and [K], whether the target is among them.
    top: tuple[Tensor, Tensor | None, Tensor] | None = None
    written: Tensor | None = None  # [K], of the targets when they were drawn
    # Of each pair of `Needs.taps`: [K, D] of the student, behind its bridge where there is one, and
    # of the frozen model, in float32.
    taps: tuple[tuple[Tensor, Tensor], ...] = ()
    # [K] each: the KL from the frozen model's relation to the student's, the mean over heads.
    relations: tuple[Tensor, ...] = ()
    # [K] each: what `Needs.across` compares, at the first target of each span or, of what is of a
    # whole text, of each text; 0 at others.
    spans: tuple[Tensor, ...] = ()


class Term(NamedTuple):
    """One summand of the loss: coefficient * total / (count of denominator in the step)."""

    name: str
    total: Tensor
    denominator: Denominator
    coefficient: float


def softmax_of_advantages(completions: list[Scored], tau: float) -> np.ndarray:
    """Eq. 7 of arXiv 2507.00054 within a group."""
    return softmax_weights(np.array([one.advantage for one in completions]), tau)
