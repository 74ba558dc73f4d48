"""The sections of a recipe of `fastdistill condense`."""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from fastdistill_ray.knobs import Knobs

OPERATION = Literal["add", "subtract", "multiply", "add_add", "add_subtract"]


class TextKnobs(Knobs):
    FREE = frozenset({"path"})

    name: Literal["word_problems", "jsonl"] = Field(
        description="word_problems: made ones, labelled by their operation; jsonl: those of a file."
    )
    path: str = Field(
        default="",
        description="jsonl: a .jsonl, .json, .parquet or .csv file with a row for each text.",
    )
    text: str = Field(default="text", description="jsonl: the column with the text.")
    label: str = Field(default="label", description="jsonl: the column with its class.")
    operations: list[OPERATION] = Field(
        default=["add", "subtract", "multiply", "add_subtract"],
        min_length=2,
        description="word_problems: the classes.",
    )
    num_train: int = Field(ge=2, description="Texts to condense, drawn by the seed.")
    num_test: int = Field(ge=1, description="Other texts, on which learners are tried.")
    seed: int = Field(default=0, ge=0, description="Of the texts and of how they are divided.")

    @model_validator(mode="after")
    def _one_source(self) -> "TextKnobs":
        if (self.name == "jsonl") != bool(self.path):
            what = "needs the file" if self.name == "jsonl" else "reads none"
            raise ValueError(f"path: task {self.name} {what}")
        if len(set(self.operations)) < len(self.operations):
            raise ValueError(f"operations: {self.operations} names one twice")
        return self


class EncoderKnobs(Knobs):
    FREE = frozenset({"model", "batch_tokens"})

    model: str = Field(description="Hub id, folder, .gguf file or packaged name.")
    layer: int = Field(
        ge=1,
        description="An embedding is the mean over a text's tokens of what this block, counted "
        "from 1, puts out, before any final norm.",
    )
    max_tokens: int = Field(default=128, ge=1, description="Tokens of a text that are read.")
    batch_tokens: int = Field(default=1024, ge=1, description="Read at once, padding included.")


class MethodKnobs(Knobs):
    per_class: int = Field(
        default=1, ge=1, le=1000, description="Texts or points of each class in a condensed set."
    )


class DatasetDistillation(MethodKnobs):
    """arXiv 1811.10959, alg. 1: points and step sizes of which a few steps make a good learner."""

    LABEL: ClassVar[str] = "Dataset Distillation"

    kind: Literal["dataset_distillation"] = "dataset_distillation"
    steps: int = Field(default=10, ge=1, description="Of a learner, each on the whole set.")
    step_size: float = Field(
        default=0.02, gt=0, description="What every step's size begins with; softplus keeps it > 0."
    )
    iterations: int = Field(default=400, ge=1, description="Updates of points and step sizes.")
    learning_rate: float = Field(default=0.02, gt=0, description="Of Adam, betas 0.5 and 0.999.")
    decay: float = Field(default=0.5, gt=0, le=1, description="Of that rate,")
    decay_every: int = Field(default=100, ge=1, description="each time after so many iterations.")
    learners: int = Field(default=4, ge=1, description="Random starts an iteration.")
    batch: int = Field(default=1024, ge=1, description="Real texts an iteration.")


class Mtt(MethodKnobs):
    """arXiv 2203.11932, alg. 1: points on which a learner goes where experts went on real texts."""

    LABEL: ClassVar[str] = "Matching Training Trajectories"

    kind: Literal["mtt"] = "mtt"
    experts: int = Field(default=20, ge=1, description="Learners of real texts to follow.")
    expert_rate: float = Field(default=0.01, gt=0, description="Their step size.")
    expert_batch: int = Field(default=256, ge=1, description="Texts of one of their steps.")
    expert_epochs: int = Field(default=3, ge=1, description="Of an expert, to be gone in `steps`.")
    max_start: int = Field(default=25, ge=0, description="The last epoch that a part begins with.")
    steps: int = Field(default=20, ge=1, description="Of the learner, each on the whole set.")
    iterations: int = Field(default=1000, ge=1, description="Updates of points and step size.")
    learning_rate: float = Field(default=10.0, gt=0, description="Of the points.")
    step_size: float = Field(default=0.01, gt=0, description="What the step size begins with.")
    step_size_rate: float = Field(default=1e-7, gt=0, description="Learning rate of it.")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="Of both, by SGD.")


class MatchingKnobs(MethodKnobs):
    """Whose gradients are matched: learners that begin anew now and then."""

    restart_every: int = Field(default=10, ge=1, description="Iterations with the same learner.")
    learner_steps: int = Field(default=20, ge=0, description="Of it on the set, between two.")
    learner_rate: float = Field(default=0.01, gt=0, description="Its step size.")
    learners: int = Field(default=4, ge=1, description="Random starts whose gradients are matched.")


class Glad(MatchingKnobs):
    """arXiv 2305.01649, eq. 2: points are what a model makes of latents, here of soft tokens."""

    LABEL: ClassVar[str] = "GLaD"

    kind: Literal["glad"] = "glad"
    iterations: int = Field(default=1000, ge=1, description="Updates of the latents.")
    learning_rate: float = Field(default=0.1, gt=0, description="Of Adam.")
    confidence: float = Field(
        default=8.0,
        gt=0,
        description="Latent of a real text's own token at the start, where all others have 0.",
    )


class Dilm(MatchingKnobs):
    """arXiv 2404.00264: a generator of labelled texts whose gradients are those of real ones."""

    FREE = frozenset({"model"})
    LABEL: ClassVar[str] = "DiLM"

    kind: Literal["dilm"] = "dilm"
    model: str = Field(description="The generator: hub id, folder, .gguf file or packaged name.")
    frozen_blocks: int = Field(
        default=0,
        ge=0,
        description="First blocks of it that are not trained, nor, where there are any, its "
        "embedding and head.",
    )
    lm_steps: int = Field(default=80_000, ge=1, description="Steps on labelled texts, first.")
    lm_batch: int = Field(default=64, ge=1, description="Texts of one of them.")
    lm_learning_rate: float = Field(default=1e-5, gt=0, description="Of AdamW.")
    steps: int = Field(default=20_000, ge=1, description="Steps of gradient matching, after it.")
    learning_rate: float = Field(default=3e-7, gt=0, description="Of AdamW, in them.")
    batch: int = Field(default=64, ge=2, description="Generated texts of a class in one of them.")
    real_batch: int = Field(default=200, ge=1, description="Real texts of a class.")
    temperature: float = Field(
        default=1.0, gt=0, description="Of the softmax over a batch's losses."
    )
    pool: int = Field(
        default=100,
        ge=1,
        description="Texts generated of each class, among which sets of `per_class` are chosen.",
    )
    top_p: float = Field(default=0.95, gt=0, le=1, description="Of the sampling.")
    max_new_tokens: int = Field(default=64, ge=1, description="Of a generated text.")
    seed: int = Field(default=0, ge=0, description="Of the generator's training and sampling.")

    @model_validator(mode="after")
    def _enough_in_the_pool(self) -> "Dilm":
        if self.pool < self.per_class:
            raise ValueError(
                f"pool: {self.pool} texts cannot give per_class {self.per_class} of a class"
            )
        return self

    @property
    def before_matching(self) -> "Dilm":
        """Without what matters only once there is a language model of the texts."""
        ours = ("model", "frozen_blocks", "lm_steps", "lm_batch", "lm_learning_rate", "seed")
        return Dilm(**{name: getattr(self, name) for name in ours})


AnyMethod = DatasetDistillation | Mtt | Glad | Dilm
Method = Annotated[AnyMethod, Field(discriminator="kind")]
METHODS: dict[str, type[AnyMethod]] = {
    method.model_fields["kind"].default: method for method in get_args(AnyMethod)
}


class LearnerKnobs(Knobs):
    sets: int = Field(
        default=5, ge=1, description="Condensed sets and random subsets, each of another seed."
    )
    seeds: int = Field(default=5, ge=1, description="Learners of each set, of other seeds.")
    updates: int = Field(default=200, ge=1, description="Of each, on its whole set at once.")
    learning_rate: float = Field(default=0.01, gt=0, description="Of gradient descent.")
    seed: int = Field(default=0, ge=0, description="Which all others are made of.")
