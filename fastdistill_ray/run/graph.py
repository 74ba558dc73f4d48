"""What a stage depends on, and whether work that is there already is that of a wanted stage.

A run is a graph: every stage is identified by its own sections of the recipe, the identities of its
inputs (files, models), and the stages before it, which are inputs too. Two stages with equal
dependencies are one, whatever else the recipes around them say.
"""

import itertools
import json
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastdistill_ray.digests import same_identity, text_digest
from fastdistill_ray.knobs import chosen, identity
from fastdistill_ray.run_files import MANIFEST, STAGE, STAGES, read_json, write_json
from fastdistill_ray.storage.place import Place

NEW = "new"  # in place of the folder of a stage that is not there yet
MOST_SHOWN, BEFORE = 57, 20  # characters of a value, and of them before the first that differs


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe: `kind` is the folder it lies in, `label` tells those of a kind apart
    for people.

    `sections` are knobs, `inputs` identities, both by name; where a user writes something else in
    this recipe, `path_of` has it.
    """

    kind: str
    label: str
    sections: dict[str, Any]
    inputs: dict[str, str]
    path_of: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.label}" if self.label else self.kind

    @property
    def dependencies(self) -> dict[str, Any]:
        sections = {name: identity(knobs) for name, knobs in self.sections.items()}
        return {"sections": sections, "inputs": self.inputs}

    def without_input(self, name: str) -> "Stage":
        """The same of any other input of that name: its rows may serve where those agree."""
        inputs = {key: value for key, value in self.inputs.items() if key != name}
        return Stage(self.kind, self.label, self.sections, inputs, self.path_of)

    def only(self, *sections: str) -> "Stage":
        """The part of it that depends on these sections."""
        kept = {name: value for name, value in self.sections.items() if name in sections}
        return Stage(self.kind, self.label, kept, self.inputs, self.path_of)


class Change(NamedTuple):
    """A dependency in which work that is there differs from what is wanted."""

    path: str
    before: Any
    now: Any

    def __str__(self) -> str:
        if self.now == NEW:
            return f"{self.path} will be others"
        before, now = repr(self.before), repr(self.now)
        alike = itertools.takewhile(bool, map(operator.eq, before, now))
        common = sum(1 for _ in alike)
        # Of long ones, from a little before they differ.
        start = common - BEFORE if max(len(before), len(now)) > MOST_SHOWN else 0
        return f"{self.path} was {_short(before, start)}, now {_short(now, start)}"


class Made(NamedTuple):
    """Work that is there: a stage's folder and what it depended on."""

    folder: Place
    dependencies: dict[str, Any]

    @property
    def is_complete(self) -> bool:
        return (self.folder / MANIFEST).exists()


def made(run: Place, kind: str) -> Iterator[Made]:
    """All work of a kind, complete work first."""
    found = [
        Made(folder, read_json(folder / STAGE, {}))
        for folder in (run / STAGES / kind).list()
        if (folder / STAGE).is_file()
    ]
    yield from sorted(found, key=lambda one: not one.is_complete)


def made_of(run: Place, folder: Place) -> Iterator[Made]:
    """All work whose inputs name the folder of a stage, or a student in it."""
    own = folder.relative_to(run)
    for kind in (run / STAGES).list():
        for one in made(run, kind.name):
            inputs = one.dependencies.get("inputs", {}).values()
            if any(value == folder.name or value.startswith(f"{own}/") for value in inputs):
                yield one


def changes(stage: Stage, old: Mapping[str, Any]) -> list[Change]:
    """In what the dependencies `old` differ; of `old`, only what `stage` depends on is compared.

    A knob that `old` did not know counts as its default.
    """
    sections, inputs = old.get("sections", {}), old.get("inputs", {})
    found = [
        change
        for name, knobs in stage.sections.items()
        for change in _compare(
            sections.get(name), identity(knobs), chosen(knobs), stage.path_of.get(name, name)
        )
    ]
    for name, value in stage.inputs.items():
        before = inputs.get(name, "")
        if not same_identity(before, value):
            found.append(Change(stage.path_of.get(name, name), before, value))
    return found


def find(run: Place, stage: Stage) -> Made | None:
    """The work that is that of the stage, wherever it lies. What depends on more, such as a
    training in rounds or one that begins as another student ended, is another stage's."""
    return next((one for one in made(run, stage.kind) if not differences(stage, one)), None)


def nearest(run: Place, stage: Stage) -> tuple[Made, list[Change]] | None:
    """The other work of its kind that differs least, and in what: of its label or, of a training,
    of the same student at another learning rate or seed."""
    near = [
        (one, differences(stage, one))
        for one in made(run, stage.kind)
        if _student(one.folder.name.rpartition("-")[0]) == _student(stage.label)
    ]
    return min(near, key=lambda pair: len(pair[1]), default=None)


def _student(label: str) -> str:
    return label.partition("-lr_")[0]


def new_folder(run: Place, stage: Stage) -> Place:
    """Where work on the stage begins; its dependencies are noted there first."""
    digest = text_digest([json.dumps(stage.dependencies, sort_keys=True)])[:8]
    folder = run / STAGES / stage.kind / "-".join(filter(None, [stage.label, digest]))
    write_json(folder / STAGE, stage.dependencies)
    return folder


def differences(stage: Stage, work: Made) -> list[Change]:
    """Changes, and what the work depended on and the stage does not."""
    no_more = [
        Change(stage.path_of.get(name) or name, before, None)
        for part, own in (("sections", stage.sections), ("inputs", stage.inputs))
        for name, before in work.dependencies.get(part, {}).items()
        if name not in own
    ]
    return changes(stage, work.dependencies) + no_more


def _compare(old: Any, new: Any, chosen_now: Any, path: str) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            is_set = isinstance(chosen_now, dict) and key in chosen_now
            if key not in old and not is_set:
                continue  # a newer knob at its default
            inner = chosen_now[key] if is_set else {}
            yield from _compare(old.get(key), new.get(key), inner, f"{path}.{key}")
    elif (mine := _by_name(old)) is not None and (theirs := _by_name(new)) is not None:
        inner = dict(chosen_now or ())
        for key in sorted({*mine, *theirs}):
            own = f"{path}.{key}"
            if key in mine and key in theirs:
                yield from _compare(mine[key], theirs[key], inner.get(key), own)
            else:
                yield Change(own, mine.get(key), theirs.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, pair in enumerate(zip(old, new, strict=True)):
            yield from _compare(*pair, chosen_now[place] if chosen_now else {}, f"{path}.{place}")
    elif old != new:
        yield Change(path, old, new)


def _by_name(value: Any) -> dict[str, Any] | None:
    """What `identity` made of a mapping, whose names are the user's own."""
    pairs = isinstance(value, list) and all(
        isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) for one in value
    )
    return dict(value) if pairs else None


def _short(text: str, start: int) -> str:
    end = max(start, 0) + MOST_SHOWN
    shown = text[:end][start:] if start > 0 else text[:end]
    return f"{'...' if start > 0 else ''}{shown}{'...' if text[end:] else ''}"
