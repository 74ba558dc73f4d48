"""The stages of `fastdistill condense` bound to a run folder. Read jobs/condense.py first."""

from typing import NamedTuple

from fastdistill_ray.condensing.dilm import match_gradients
from fastdistill_ray.condensing.encoder import check_encoder, embed
from fastdistill_ray.condensing.generator import check_generator, train_lm, write_pool
from fastdistill_ray.condensing.knobs import Dilm
from fastdistill_ray.condensing.report import page, results
from fastdistill_ray.condensing.stages import choose_sets, optimise_sets, try_learners
from fastdistill_ray.condensing.texts import check_per_class, read_texts, write_texts
from fastdistill_ray.recipe.condense import CondenseRecipe
from fastdistill_ray.run.condense_stages import LM, MATCHED, CondenseStages
from fastdistill_ray.run.driver import AnyJob
from fastdistill_ray.run.folder import JobFolder
from fastdistill_ray.run_files import CONDENSED, CONDENSED_MARKDOWN, write_json, write_text
from fastdistill_ray.storage.place import Place

Run = JobFolder[CondenseRecipe]


class Sets(NamedTuple):
    """Folders of condensed sets; `before`: those of a generator that is not matched, if any."""

    condensed: Place
    before: Place | None = None


def prepare_texts(run: Run) -> Place:
    """Labelled texts of train and test, once."""
    return run.stage(_stages(run).texts(), write_texts, run.recipe.task)


def check(job: AnyJob[Run], texts: Place) -> None:
    """Everything that can be known to fail; then the folder is this recipe's."""
    recipe = job.run.recipe
    train = read_texts(texts)["train"]
    check_per_class([train.classes[label] for label in train.labels], recipe.method.per_class)
    check_encoder(recipe.encoder)
    if isinstance(recipe.method, Dilm):
        check_generator(recipe.method)
    job.claim()


def embed_texts(run: Run, texts: Place) -> Place:
    return run.stage(_stages(run).embeddings(), embed, texts, run.recipe.encoder)


def condense_sets(run: Run, texts: Place, embeddings: Place) -> Sets:
    recipe, stages, method = run.recipe, _stages(run), run.recipe.method
    if not isinstance(method, Dilm):
        given = (method, recipe.encoder, recipe.learners, texts, embeddings)
        return Sets(run.stage(stages.sets(), optimise_sets, *given))
    read = (texts, embeddings, recipe.encoder)
    lm = run.stage(stages.generator(LM), train_lm, method, texts)
    pool = run.stage(stages.pool(LM), write_pool, method, lm, *read)
    to_match = (method, lm, pool, texts, embeddings)
    matched = run.stage(stages.generator(MATCHED), match_gradients, *to_match)
    pools = {LM: pool, MATCHED: run.stage(stages.pool(MATCHED), write_pool, method, matched, *read)}
    sets = {
        which: run.stage(
            stages.sets(which), choose_sets, method, recipe.learners, texts, pools[which]
        )
        for which in pools
    }
    return Sets(sets[MATCHED], sets[LM])


def try_sets(run: Run, embeddings: Place, sets: Sets) -> Place:
    """What fresh learners make of condensed sets, and of what they are held against."""
    recipe = run.recipe
    given = (recipe.method, recipe.learners, embeddings, *sets)
    return run.stage(_stages(run).learners(), try_learners, *given)


def write_condensed(run: Run, texts: Place, embeddings: Place, sets: Sets, tried: Place) -> str:
    """condense.json and condense.md; -> the latter."""
    recipe = run.recipe
    found = results(recipe.method, recipe.learners, texts, embeddings, sets.condensed, tried)
    write_json(run.view / CONDENSED, found)
    write_text(run.view / CONDENSED_MARKDOWN, page(found))
    return page(found)


def _stages(run: Run) -> CondenseStages:
    return CondenseStages(run.recipe, run.path)
