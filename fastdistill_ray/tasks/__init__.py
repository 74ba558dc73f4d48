"""One file per dataset family. A task loads problems and says which verifier judges them."""

from pydantic import Field

from fastdistill_ray.knobs import Knobs


class TaskKnobs(Knobs):
    name: str = Field(description="A name in TASKS: word_problems, gsm8k, jsonl.")
    path: str = Field("", description="A local file or folder instead of the hub's dataset.")
    seed: int = Field(0, description="Of generated problems and of held-out splits.")
    num_train: int | None = Field(None, ge=1, description="Problems to use; none: all.")
    num_validation: int = Field(0, ge=0, description="Held out of train.")
    num_test: int | None = Field(None, ge=0, description="Problems to use; none: all.")
    num_ood: int | None = Field(None, ge=0, description="Problems to use; none: all.")
