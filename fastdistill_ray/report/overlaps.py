"""What the report says of tested problems that stand in the texts students were trained on."""

from fastdistill_ray.report.page import Block, Text
from fastdistill_ray.report.reading import Contents
from fastdistill_ray.run_files import OVERLAPS, read_json

SHOWN = 5


def overlap_warning(run: Contents) -> str:
    """A sentence where there are some."""
    found = list(read_json(run.stages["overlaps"] / OVERLAPS, {})) if _tested(run) else []
    if not found:
        return ""
    names = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
    return (
        f"{len(found):,} of {_tested(run)} share {_words(run)} with a completion of the teachers' "
        f"kept groups ({names}): answers to these may be known by heart."
    )


def overlap_blocks(run: Contents) -> list[Block]:
    """The same sentence, or that there are none; nothing where it was not looked for."""
    if not _tested(run):
        return []
    shared = f"{_words(run)} with a completion of the teachers' kept groups"
    none = f"None of {_tested(run)} shares {shared}."
    return [Text(overlap_warning(run) or none)]


def _tested(run: Contents) -> str:
    """How many problems, once all are looked for."""
    for manifest in run.manifests:
        if manifest["stage"] == "overlaps":
            short = manifest["set_aside"].get("too_short", 0)
            rest = f" ({short:,} shorter ones cannot be looked for)" if short else ""
            return f"the {manifest['rows_in'] - short:,} tested problems{rest}"
    return ""


def _words(run: Contents) -> str:
    return f"{run.recipe['task']['decontaminate']} words in a row"
