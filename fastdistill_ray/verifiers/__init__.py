"""Answer extraction and comparison: a completion's final answer and whether it is right."""

from fastdistill_ray.verifiers.judge import Judge, VerifierKnobs

__all__ = ["Judge", "VerifierKnobs"]
