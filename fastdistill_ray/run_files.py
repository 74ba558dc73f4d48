"""What a stage leaves in its folder: its result, a manifest written last, files written whole."""

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class StageResult:
    """What a stage function returns; rows_in == rows_out + the sum of set_aside, always."""

    rows_in: int
    rows_out: int
    set_aside: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    facts: dict[str, float] = field(default_factory=dict)  # what else its readers may want


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
