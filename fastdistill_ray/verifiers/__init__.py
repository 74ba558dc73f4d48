"""Answer extraction and comparison: a completion's final answer and whether it is right."""

from fastdistill_ray.verifiers.judge import Judge
from fastdistill_ray.verifiers.knobs import VerifierKnobs

__all__ = ["Judge", "VerifierKnobs"]
