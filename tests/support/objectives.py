"""One objective of each kind, with what it cannot do without."""

from fastdistill_ray.objectives import OBJECTIVES, AnyObjective

REQUIRED = {"pkd": {"layers": [[0, 1]]}}


# Sections of a recipe that a kind needs beside its own.
BESIDE = {
    "opd": {"rounds": {"count": 2}, "evaluation": {"engine": {"max_model_len": 1024}}},
}


def knobs_of(kind: str) -> dict:
    return {"kind": kind, **REQUIRED.get(kind, {})}


def objective_of(kind: str) -> AnyObjective:
    return OBJECTIVES[kind](**knobs_of(kind))
