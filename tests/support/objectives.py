"""One objective of each kind, with what it cannot do without."""

from fastdistill_ray.objectives import OBJECTIVES, AnyObjective
from fastdistill_ray.training.packing import TrainGroup

REQUIRED = {
    "pkd": {"layers": [[0, 1]]},
    "fitnets": {"layers": [[0, 1]]},
    "tinybert": {"layers": [[0, 1], [1, 2]]},
    "lit": {"layers": [[0, 1], [1, 2]]},
    "minilm": {"layers": [[1, 2]]},
    "minilmv2": {"layers": [[1, 1]], "relation_heads": 4},
}


# Sections of a recipe that a kind needs beside its own.
BESIDE = {
    "opd": {"rounds": {"count": 2}, "evaluation": {"engine": {"max_model_len": 1024}}},
    "distillm2": {
        "rounds": {"count": 2, "mix": 0.5},
        "evaluation": {"engine": {"max_model_len": 1024}},
    },
}


def knobs_of(kind: str) -> dict:
    return {"kind": kind, **REQUIRED.get(kind, {})}


def objective_of(kind: str) -> AnyObjective:
    return OBJECTIVES[kind](**knobs_of(kind))


def teacher_of(objective: AnyObjective) -> str:
    """What tests call it: one of another width or tokenizer where that can be."""
    needs = objective.needs
    if needs.across:
        return "twin"
    return "wide" if needs.bridge or (needs.relations and needs.relations.num_heads) else "teacher"


def in_views(groups: list[TrainGroup], objective: AnyObjective) -> list[TrainGroup]:
    """Every second one of thoughts, where these are trained apart, each with the one coefficient
    that is its own."""
    if not objective.needs.views:
        return groups
    return [
        group._replace(
            is_explained=bool(index % 2),
            completions=[
                one._replace(penalty=one.weight, weight=0.0) if index % 2 else one
                for one in (each._replace(penalty=0.0) for each in group.completions)
            ],
        )
        for index, group in enumerate(groups)
    ]


def reads_apart(objective: AnyObjective) -> bool:
    """Whether tests give the model beside the student a prompt of its own."""
    return objective.needs.frozen == "teacher" and not objective.needs.fed
