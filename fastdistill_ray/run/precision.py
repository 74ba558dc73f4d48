"""Whether the CPUs of this machine compute in the precision that a recipe asks of them.

Most have no arithmetic of their own for bfloat16: there it takes many times as long as float32.
"""

import logging
import time

import torch

from fastdistill_ray.generation.knobs import EngineKnobs
from fastdistill_ray.recipe.derived import all_teachers
from fastdistill_ray.recipe.tree import Recipe

logger = logging.getLogger(__name__)
SHAPE = 64, 512, 512  # of the product that is tried
REPEATS = 3
SLOW = 3.0  # times as long as float32: worth a line


def check_precision(recipe: Recipe) -> None:
    """Warns of what runs on CPUs in bfloat16 where that is slow here."""
    if (fields := in_bfloat16(recipe)) and (slowness := measure_slowness()) > SLOW:
        logger.warning(
            "this machine's CPU takes %.0f times as long for bfloat16 as for float32; set %s",
            *(slowness, " and ".join(f"{name}: {value}" for name, value in fields.items())),
        )


def in_bfloat16(recipe: Recipe) -> dict[str, str]:
    """Fields of what is computed so without a GPU -> their value for float32."""
    pools, fields = recipe.pools, {}
    if recipe.training.precision == "bf16" and not pools.student.gpus:
        fields["training.precision"] = "fp32"
    engines = {
        f"{name}.engine": (teacher.engine, pools.of_teacher(place))
        for place, (name, teacher) in enumerate(all_teachers(recipe).items())
    }
    if recipe.scorer:
        engines["scorer.engine"] = recipe.scorer.engine, pools.of_scorer
    engines["evaluation.engine"] = recipe.evaluation.engine, pools.evaluation
    for section, (engine, pool) in engines.items():
        if not isinstance(engine, EngineKnobs) or engine.kind == "scripted" or pool.gpus:
            continue
        if engine.dtype == "bfloat16":
            fields[f"{section}.dtype"] = "float32"
    return fields


def measure_slowness() -> float:
    """Time of a product of matrices in bfloat16, in times of the same in float32."""
    return _seconds(torch.bfloat16) / _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    rows, inner, columns = SHAPE
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        torch.mm(left, right)
        taken.append(time.perf_counter() - start)
    return min(taken)
