"""The sections `student`, `optimizer` and `training` of a recipe."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.models import LAYERS
from fastdistill_ray.prompts import PromptKnobs


class InitKnobs(Knobs):
    layers: list[Annotated[int, Field(ge=0)]] = Field(
        default=[],
        description="Decoder blocks of student.model, from 0, that the student begins with; empty: "
        "all of them.",
    )

    @field_validator("layers")
    @classmethod
    def _in_order(cls, layers: list[int]) -> list[int]:
        if layers != sorted(set(layers)):
            raise ValueError("name each block once, in their order")
        return layers

    def of(self, model: str) -> str:
        """The reference of what is left of a model."""
        layers = ",".join(map(str, self.layers))
        return f"{model}{LAYERS}{layers}" if layers else model


class StudentKnobs(Knobs):
    FREE = frozenset({"model"})

    model: str = Field(min_length=1, description="Hub id, folder or .gguf file.")
    init: InitKnobs = InitKnobs()
    prompt: PromptKnobs = PromptKnobs()

    @property
    def reference(self) -> str:
        """The model that students begin as."""
        return self.init.of(self.model)


class OptimizerKnobs(Knobs):
    kind: Literal["adamw", "adamw8bit"] = Field(
        default="adamw",
        description="adamw8bit: moments in 8 bits, by torchao (pip install torchao).",
    )
    learning_rate: float = Field(
        default=5e-6, gt=0, description="Learning rate at the peak of the schedule."
    )
    weight_decay: float = Field(
        default=0.01, ge=0, description="Weight decay of AdamW, on matrices only."
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="Decay of the second moment.")
    eps: float = Field(default=1e-8, gt=0, description="Added to AdamW's denominator.")
    max_grad_norm: float = Field(default=0.5, gt=0, description="Clip of the global gradient norm.")
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="Share of steps of linear warm-up."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine",
        description="How the learning rate falls to 0 after warm-up; constant: it does not.",
    )


class LoraKnobs(Knobs):
    rank: int = Field(default=0, ge=0, description="Rank of the adapter; 0: full fine-tuning.")
    alpha: float = Field(default=32.0, gt=0, description="The adapter is scaled by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout of the adapter's input.")
    target_modules: str = Field(
        default="all-linear",
        description="Modules with an adapter, as peft's target_modules names them.",
    )


class HeldOutKnobs(Knobs):
    """Groups of the store that are never trained, and what they decide."""

    share: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Share of the kept groups that is held out; 0: no validation.",
    )
    every: int = Field(
        default=400, ge=1, description="Steps between validations; the last step has one."
    )
    best_metric: Literal["none", "loss", "ce", "likelihood_correct", "likelihood_gap"] = Field(
        default="none", description="The step with the best value is exported; none: the last step."
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="Validations in a row without a better value that end the training.",
    )


class TrainingKnobs(Knobs):
    FREE = frozenset({"checkpoint_every", "max_failures", "stop_seconds"})

    epochs: int = Field(default=4, ge=1, description="Passes over the kept groups.")
    groups_per_step: int = Field(
        default=16, ge=1, description="Groups of one optimizer update, all ranks."
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Steps after which training stops; none: epochs decide."
    )
    overlap: bool = Field(default=False, description="Train while the teacher still writes groups.")
    max_seq_len: int = Field(
        default=4096,
        gt=0,
        description="Most tokens of prompt and completion; a longer completion leaves its group.",
    )
    micro_batch_tokens: int = Field(
        default=8192, gt=0, description="Most tokens of one forward pass of a rank."
    )
    shared_prompt: bool = Field(default=True, description="Compute a group's prompt once.")
    mask_prompt: bool = Field(
        default=True,
        description="No cross-entropy on prompt tokens; penalties never are of them.",
    )
    router_loss: bool = Field(
        default=True,
        description="Train a mixture of experts' even choices too, by its config's coefficient.",
    )
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16",
        description="Precision of compute and of an adapter's frozen base; other weights are fp32.",
    )
    replicas: int = Field(
        default=1,
        ge=1,
        description="Copies of the student, each sharded over as many ranks as the others; more "
        "take more memory, and gather weights among fewer ranks.",
    )
    activation_checkpointing: bool = Field(
        default=False, description="Recompute each block in backward."
    )
    activation_offload: bool = Field(
        default=False,
        description="What activation_checkpointing keeps of GPU workers rests in host memory.",
    )
    compile: bool = Field(default=False, description="torch.compile of each block.")
    cpu_offload: bool = Field(
        default=False,
        description="Weights, gradients and optimizer of GPU workers rest in host memory.",
    )
    lora: LoraKnobs = LoraKnobs()
    held_out: HeldOutKnobs = HeldOutKnobs()
    checkpoint_every: int = Field(
        default=100,
        ge=1,
        description="Steps between checkpoints: a training that is killed, not stopped, goes on "
        "from the last and does the steps since then again, or begins anew before the first.",
    )
    max_failures: int = Field(
        default=3, ge=0, description="Restarts of the workers before giving up."
    )
    stop_seconds: float = Field(
        default=20.0,
        ge=0,
        description="Seconds in which a training that is told to stop (SIGTERM) may end its step "
        "and write a checkpoint; 0: it ends at once.",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the order of groups and of a new adapter."
    )
