"""The scripts and recipes that come with the package: jobs/ of a checkout, or inside it where it is
installed."""

import re
from itertools import takewhile
from pathlib import Path

from fastdistill_ray.storage.place import Place

PACKAGE = Path(__file__).parents[1]


def jobs_folder() -> Path:
    inside = PACKAGE / "jobs"
    return inside if inside.is_dir() else PACKAGE.parent / "jobs"


def shipped_recipes() -> list[str]:
    """Their names, such as gsm8k or methods/dpo."""
    folder = jobs_folder() / "recipes"
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))


def describe_shipped() -> str:
    """A line of each: its name, and what the comment at its top says first."""
    names = shipped_recipes()
    width = max(map(len, names))
    texts = (recipe_place(name).read_text() for name in names)
    pairs = zip(names, texts, strict=True)
    return "\n".join(f"{name:<{width}}  {_first_sentence(text)}" for name, text in pairs)


def _first_sentence(text: str) -> str:
    """The first line is the command; what stands in parentheses belongs to it."""
    _command, *lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    said = [line.lstrip("# ") for line in lines if not line.startswith("# (")]
    return re.split(r"(?<=[.?])\s", " ".join(said), maxsplit=1)[0]


def recipe_place(name: str | Place) -> Place:
    """The file of that name; where there is none, the recipe of that name that is shipped."""
    place = Place(name)
    if isinstance(name, str) and not place.is_file() and name in shipped_recipes():
        return Place(jobs_folder() / "recipes" / f"{name}.yaml")
    return place


def is_word(name: str) -> bool:
    """Whether it may have been meant as the name of a shipped one."""
    return ":" not in name and not name.endswith((".yaml", ".yml"))
