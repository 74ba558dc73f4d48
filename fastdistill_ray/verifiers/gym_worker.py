"""The process that asks a dataset of reasoning-gym whether an answer is right:
`python -m fastdistill_ray.verifiers.gym_worker LIMIT BYTES DATASET SETTINGS`.
"""

import json
import sys
from typing import Any

import reasoning_gym

from fastdistill_ray.verifiers.serving import serve_forever

RECYCLE_AFTER = 100_000  # answers
GRIDS = ("arc_agi", "rearc")  # compare their boards as tuples, which JSON does not know


def entry_of(name: str, written: str) -> dict[str, Any]:
    """The dataset's item, as far as `score_answer` needs it, from its JSON."""
    entry = json.loads(written)
    if name in GRIDS:
        entry["metadata"]["output"] = tuple(map(tuple, entry["metadata"]["output"]))
    return entry


def main() -> None:
    time_limit, memory_bytes, name, settings = sys.argv[1:]
    dataset = reasoning_gym.create_dataset(name, size=1, seed=0, **json.loads(settings))

    def verdict_of(asked: dict[str, Any]) -> str:
        score = dataset.score_answer(asked["answer"], entry_of(name, asked["entry"]))
        # Not "at least 1": a wrong answer of calendar_arithmetic is paid more than a right one.
        return "equal" if score == 1 else "different"

    serve_forever(
        verdict_of,
        time_limit=float(time_limit),
        memory_bytes=int(memory_bytes),
        recycle_after=RECYCLE_AFTER,
    )


if __name__ == "__main__":
    main()
