"""The stages of a recipe of `fastdistill condense`: on what each one depends."""

from pathlib import Path

from fastdistill_ray.condensing.knobs import Dilm
from fastdistill_ray.digests import file_digest
from fastdistill_ray.models import model_identity
from fastdistill_ray.recipe.condense import CondenseRecipe
from fastdistill_ray.run.graph import Stage, find, nearest
from fastdistill_ray.storage.place import Place

LM, MATCHED = "lm", "matched"  # a generator before and after its gradients are matched
DRAWN = {"sets", "seed"}  # of `learners`: how many sets there are, and which


class CondenseStages:
    """One that others depend on must have a folder first."""

    def __init__(self, recipe: CondenseRecipe, run: Place) -> None:
        self.recipe, self.run = recipe, run

    def texts(self) -> Stage:
        path = self.recipe.task.path
        file = Path(path).expanduser()
        found = file_digest(file) if path and file.is_file() else f"missing:{path}"
        return Stage("texts", "", {"task": self.recipe.task}, {"task.path": found if path else ""})

    def embeddings(self) -> Stage:
        encoder = self.recipe.encoder
        inputs = {"encoder.model": model_identity(encoder.model), "texts": self._id(self.texts())}
        return Stage("embeddings", "", {"encoder": encoder}, inputs)

    def generator(self, which: str) -> Stage:
        """A generator is that of any size of a set."""
        method = self.recipe.method
        assert isinstance(method, Dilm)
        method = method.model_copy(update={"per_class": 1})
        inputs = {"method.model": model_identity(method.model), "texts": self._id(self.texts())}
        if which == LM:
            method = method.before_matching
        else:
            inputs["embeddings"] = self._id(self.embeddings())
            inputs["pool"] = self._id(self.pool(LM))
        return Stage("generator", which, {"method": method}, inputs)

    def pool(self, which: str) -> Stage:
        """Texts that it writes."""
        method = self.recipe.method
        assert isinstance(method, Dilm)
        drawn = {
            name: getattr(method, name) for name in ("pool", "top_p", "max_new_tokens", "seed")
        }
        sections = {f"method.{name}": value for name, value in drawn.items()}
        inputs = {
            "generator": self._id(self.generator(which)),
            "embeddings": self._id(self.embeddings()),
        }
        return Stage("pool", which, sections, inputs)

    def sets(self, which: str = "") -> Stage:
        """Condensed sets; `which` generator's, where the method has one."""
        recipe = self.recipe
        drawn = recipe.learners.model_dump(include=DRAWN)
        sections = {f"learners.{name}": value for name, value in drawn.items()}
        label = "-".join(filter(None, [recipe.method.kind, which]))
        if which:
            sections["method.per_class"] = recipe.method.per_class
            return Stage("sets", label, sections, {"pool": self._id(self.pool(which))})
        sections["method"] = recipe.method
        return Stage("sets", label, sections, {"embeddings": self._id(self.embeddings())})

    def learners(self) -> Stage:
        recipe = self.recipe
        is_generated = isinstance(recipe.method, Dilm)
        inputs = {"sets": self._id(self.sets(MATCHED if is_generated else ""))}
        if is_generated:
            inputs["sets before matching"] = self._id(self.sets(LM))
        return Stage("learners", recipe.method.kind, {"learners": recipe.learners}, inputs)

    def in_order(self) -> list[Stage]:
        if not isinstance(self.recipe.method, Dilm):
            return [self.texts(), self.embeddings(), self.sets(), self.learners()]
        generated = [
            *(self.generator(LM), self.pool(LM), self.generator(MATCHED), self.pool(MATCHED)),
            *(self.sets(MATCHED), self.sets(LM)),
        ]
        return [self.texts(), self.embeddings(), *generated, self.learners()]

    def _id(self, stage: Stage) -> str:
        found = find(self.run, stage)
        return found.folder.name if found else "new"


def describe_condensing(recipe: CondenseRecipe, run: Place) -> str:
    """A line for each stage: reused, to be made again, or new with what changed."""
    stages = CondenseStages(recipe, run).in_order()
    width = max(len(stage.name) for stage in stages)
    return "\n".join(f"{stage.name:<{width}} {_state(run, stage)}" for stage in stages)


def _state(run: Place, stage: Stage) -> str:
    if found := find(run, stage):
        return "reused" if found.is_complete else "to be made again: it is not complete"
    near = nearest(run, stage)
    return f"new: {'; '.join(map(str, near[1]))}" if near else "new: nothing of it is there"
