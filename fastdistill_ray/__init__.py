"""Distil a teacher into a better small student on a Ray cluster, and prove how much better."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastdistill_ray.api import (
        JobFailed,
        Run,
        distill,
        evaluate,
        generate,
        load_recipe,
        plan,
        train,
    )
    from fastdistill_ray.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "JobFailed",
    "Run",
    "UserError",
    "distill",
    "evaluate",
    "generate",
    "load_recipe",
    "plan",
    "train",
]


def __getattr__(name: str) -> Any:
    """Loaded when it is asked for: the workers of a job need none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    if name == "UserError":
        from fastdistill_ray.errors import UserError  # noqa: PLC0415

        return UserError
    from fastdistill_ray import api  # noqa: PLC0415

    return getattr(api, name)
