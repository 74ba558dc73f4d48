"""Files and folders that a recipe names, from where the user stands: absolute, so that they are the
same in a job's own working directory and in the workers of its nodes."""

from pathlib import Path
from typing import Any, TypeVar

from fastdistill_ray.endpoints.knobs import ServerKnobs
from fastdistill_ray.generation.knobs import TeacherKnobs
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.models import LAYERS

Section = TypeVar("Section", bound=Knobs)
PLACES = ("path", "model")  # fields that name one, wherever they stand


def with_absolute_paths(knobs: Section) -> Section:
    """Names of what is not on this machine stay as they are: hub ids, buckets, a node's files."""
    is_served = isinstance(knobs, ServerKnobs) or (
        isinstance(knobs, TeacherKnobs) and knobs.is_remote
    )
    update = {}
    for name in type(knobs).model_fields:
        value = getattr(knobs, name)
        if name in PLACES and isinstance(value, str):
            update[name] = value if is_served else _absolute(value)
        else:
            update[name] = _inside(value)
    return knobs.model_copy(update=update)


def _inside(value: Any) -> Any:
    if isinstance(value, Knobs):
        return with_absolute_paths(value)
    return [_inside(one) for one in value] if isinstance(value, list) else value


def _absolute(reference: str) -> str:
    path, layers, numbers = reference.partition(LAYERS)
    found = Path(path).expanduser()
    return f"{found.absolute()}{layers}{numbers}" if path and found.exists() else reference
