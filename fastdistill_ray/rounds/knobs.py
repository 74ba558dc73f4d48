"""The section `rounds` of a student: it writes what it is trained on. No Ray, no torch."""

from pydantic import Field

from fastdistill_ray.generation.knobs import SamplingKnobs
from fastdistill_ray.knobs import Knobs


class AdaptiveKnobs(Knobs):
    """Of DistiLLM's share of the student's own texts (`groups/shares.py`)."""

    rise: float = Field(
        default=0.1, gt=0, le=1, description="By how much the share rises, at first 0, at most 1."
    )
    tolerance: float = Field(
        default=0.1,
        ge=0,
        description="The share rises after a validation whose loss is at least this much above "
        "that of the last rise, or at first above that before training.",
    )


class RoundsKnobs(Knobs):
    FREE = frozenset({"max_cut"})

    count: int = Field(
        ge=1, description="Rounds; in each the student as it is by then writes new texts."
    )
    steps: int = Field(
        default=1,
        ge=1,
        description="Optimizer updates of a round, each on training.groups_per_step groups.",
    )
    n: int = Field(default=4, ge=1, description="Completions that the student writes of a problem.")
    temperature: float = Field(
        default=1.0, gt=0, description="Temperature at which the student writes; top_p is 1."
    )
    staleness: int = Field(
        default=0,
        ge=0,
        le=4,
        description="Rounds that the student that writes may be behind the one that is trained. 0: "
        "both wait for each other; 1: a round's texts are written while the one before is trained.",
    )
    mix: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the groups of each update that teachers wrote, from the store.",
    )
    adaptive: AdaptiveKnobs | None = Field(
        default=None,
        description="The share of the groups of each update that the student wrote grows where the "
        "loss on held-out groups of teachers does (DistiLLM), in place of mix; of these the more "
        "are texts that it wrote for earlier updates the later it is. Needs training.held_out.",
    )
    max_cut: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Training ends where more of an update's completions than this share are cut "
        "at sampling.max_new_tokens or for a loop; 1: never.",
    )

    def num_mixed(self, groups_per_step: int) -> int:
        """Groups of an update that teachers wrote."""
        return round(self.mix * groups_per_step)

    def num_own(self, groups_per_step: int) -> int:
        """Groups of an update that the student wrote, at most."""
        return groups_per_step - self.num_mixed(groups_per_step)

    @property
    def is_mixed(self) -> bool:
        """Whether teachers' texts are trained on too."""
        return self.mix > 0 or self.adaptive is not None

    @property
    def total_steps(self) -> int:
        return self.count * self.steps

    def sampling(self, recipe: SamplingKnobs, *, is_logged: bool) -> SamplingKnobs:
        """How the student draws; `is_logged`: with the log-probability of each token. Where nothing
        is cut from its distribution, that is the one it was drawn with."""
        return SamplingKnobs(
            n=self.n,
            temperature=self.temperature,
            max_new_tokens=recipe.max_new_tokens,
            loop_repeats=recipe.loop_repeats,
            logprobs=int(is_logged),
            seed=recipe.seed,
            max_set_aside=recipe.max_set_aside,
        )
