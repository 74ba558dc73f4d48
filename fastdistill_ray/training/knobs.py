"""The sections `student`, `optimizer` and `training` of a recipe."""

from typing import Literal

from pydantic import Field

from fastdistill_ray.knobs import Knobs
from fastdistill_ray.prompts import PromptKnobs


class StudentKnobs(Knobs):
    FREE = frozenset({"model"})

    model: str = Field(min_length=1, description="Hub id, folder or .gguf file.")
    prompt: PromptKnobs = PromptKnobs()


class OptimizerKnobs(Knobs):
    kind: Literal["adamw", "adamw8bit"] = Field(
        default="adamw",
        description="adamw8bit: moments in 8 bits, by torchao (pip install torchao).",
    )
    learning_rate: float = Field(default=5e-6, gt=0, description="Peak of the schedule.")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's, on matrices only.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's.")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's.")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's.")
    max_grad_norm: float = Field(default=0.5, gt=0, description="Clip of the global gradient norm.")
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="Share of steps of linear warm-up."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="After warm-up, down to 0 (constant: none)."
    )


class LoraKnobs(Knobs):
    rank: int = Field(default=0, ge=0, description="0: full fine-tuning.")
    alpha: float = Field(default=32.0, gt=0, description="Scale is alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Of the adapter's input.")
    target_modules: str = Field(default="all-linear", description="peft's target_modules.")


class HeldOutKnobs(Knobs):
    """Groups of the store that are never trained, and what they decide."""

    share: float = Field(
        default=0.0, ge=0, le=0.5, description="Of the kept groups, held out; 0: no validation."
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
    FREE = frozenset({"checkpoint_every", "max_failures"})

    epochs: int = Field(default=4, ge=1, description="Passes over the kept groups.")
    groups_per_step: int = Field(
        default=16, ge=1, description="Groups of one optimizer update, all ranks."
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Stop there; none: epochs decide."
    )
    overlap: bool = Field(default=False, description="Train while the teacher still writes.")
    max_seq_len: int = Field(
        default=4096,
        gt=0,
        description="Prompt and completion; a longer completion leaves its group.",
    )
    micro_batch_tokens: int = Field(
        default=8192, gt=0, description="Tokens of one forward, per rank."
    )
    shared_prompt: bool = Field(default=True, description="Compute a group's prompt once.")
    mask_prompt: bool = Field(default=True, description="No loss on prompt tokens.")
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16", description="Of compute; weights are fp32."
    )
    activation_checkpointing: bool = Field(
        default=False, description="Recompute each block in backward."
    )
    compile: bool = Field(default=False, description="torch.compile of each block.")
    cpu_offload: bool = Field(
        default=False,
        description="Weights, gradients and optimizer of GPU workers rest in host memory.",
    )
    lora: LoraKnobs = LoraKnobs()
    held_out: HeldOutKnobs = HeldOutKnobs()
    checkpoint_every: int = Field(default=100, ge=1, description="Steps between checkpoints.")
    max_failures: int = Field(
        default=3, ge=0, description="Restarts of the workers before giving up."
    )
    seed: int = Field(default=0, description="Of the order of groups.")
