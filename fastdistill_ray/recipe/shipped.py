"""The scripts and recipes that come with the package: jobs/ of a checkout, or inside it where it is
installed."""

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


def recipe_place(name: str | Place) -> Place:
    """The file of that name; where there is none, the recipe of that name that is shipped."""
    place = Place(name)
    if isinstance(name, str) and not place.exists() and name in shipped_recipes():
        return Place(jobs_folder() / "recipes" / f"{name}.yaml")
    return place


def is_word(name: str) -> bool:
    """Whether it may have been meant as the name of a shipped one."""
    return ":" not in name and not name.endswith((".yaml", ".yml"))
