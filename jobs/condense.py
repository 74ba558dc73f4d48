"""A few points or texts in place of many (Dataset Distillation, MTT, GLaD, DiLM on embeddings).

labelled texts -> embeddings -> condensed sets -> what fresh learners of them get right

    ray job submit --working-dir . -- python jobs/condense.py RECIPE --run-dir RUN
"""

from fastdistill_ray.recipe.condense import CondenseRecipe
from fastdistill_ray.run.condense import (
    check,
    condense_sets,
    embed_texts,
    prepare_texts,
    try_sets,
    write_condensed,
)
from fastdistill_ray.run.driver import AnyJob, main_of
from fastdistill_ray.run.folder import JobFolder


def condense(job: AnyJob[JobFolder[CondenseRecipe]]) -> None:
    run = job.run
    texts = prepare_texts(run)
    check(job, texts)
    embeddings = embed_texts(run, texts)
    sets = condense_sets(run, texts, embeddings)
    tried = try_sets(run, embeddings, sets)
    print(f"\n{write_condensed(run, texts, embeddings, sets, tried)}")


if __name__ == "__main__":
    main_of(CondenseRecipe, condense)
