"""What the report says of tested problems that stand in the texts students were trained on."""

from typing import Any

from fastdistill_ray.report.page import Block, Text
from fastdistill_ray.report.reading import Contents
from fastdistill_ray.run_files import MANIFEST, OVERLAPS, read_json

SHOWN = 5


def overlap_blocks(run: Contents) -> list[Block]:
    """A sentence where it was looked for."""
    return [Text(text)] if (text := overlap_sentence(run)) else []


def overlap_warning(run: Contents) -> str:
    """The sentence where there are such problems."""
    return overlap_sentence(run) if _found(run) else ""


def overlap_sentence(run: Contents) -> str:
    if "overlaps" not in run.stages or not (folder := run.stages["overlaps"] / MANIFEST).exists():
        return ""
    manifest, found = read_json(folder, {}), _found(run)
    short = manifest["set_aside"].get("too_short", 0)
    tested, words = manifest["rows_in"] - short, _stored(run)["words"]
    rest = f" ({short:,} shorter ones cannot be looked for)" if short else ""
    if not found:
        return (
            f"None of the {tested:,} tested problems{rest} shares {words} words in a row with a "
            "completion that students were trained on."
        )
    names = ", ".join(list(found)[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
    return (
        f"{len(found):,} of the {tested:,} tested problems{rest} share {words} words in a row with "
        f"a completion that students were trained on ({names}): answers to these may be known by "
        "heart."
    )


def _stored(run: Contents) -> dict[str, Any]:
    empty: dict[str, Any] = {"words": 0, "found": {}}
    folder = run.stages.get("overlaps")
    return read_json(folder / OVERLAPS, empty) if folder else empty


def _found(run: Contents) -> dict[str, str]:
    return _stored(run)["found"]
