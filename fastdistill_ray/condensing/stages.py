"""The stages between embeddings and the report, but those of a generator."""

import torch

from fastdistill_ray.condensing.condensed import (
    SETS,
    Condensed,
    generator_of,
    read_sets,
    write_sets,
)
from fastdistill_ray.condensing.dilm import chosen_texts
from fastdistill_ray.condensing.encoder import Encoder, read_embeddings, read_scale
from fastdistill_ray.condensing.glad import condense_latents, prior_of
from fastdistill_ray.condensing.knobs import (
    AnyMethod,
    DatasetDistillation,
    Dilm,
    EncoderKnobs,
    Glad,
    LearnerKnobs,
    Mtt,
)
from fastdistill_ray.condensing.learners import (
    CENTRES,
    CONDENSED,
    LEARNERS,
    LM_ONLY,
    OWN_STEPS,
    RANDOM,
    WHOLE,
    Tried,
    central_subset,
    random_subsets,
    try_sets,
    whole,
    write_tried,
)
from fastdistill_ray.condensing.points import distil_dataset, match_trajectories
from fastdistill_ray.condensing.texts import read_texts
from fastdistill_ray.progress import Progress
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place

Optimised = DatasetDistillation | Mtt | Glad


def optimise_sets(
    method: Optimised,
    encoder: EncoderKnobs,
    learners: LearnerKnobs,
    texts: Place,
    embeddings: Place,
    *,
    out: Place,
) -> StageResult:
    """`learners.sets` condensed sets, each of another seed."""
    train, data = read_texts(texts)["train"], read_embeddings(embeddings)["train"]
    prior = None
    if isinstance(method, Glad):
        prior = prior_of(Encoder(encoder), read_scale(embeddings), train.texts)
    progress, sets = Progress(f"condense {method.kind}", learners.sets), list[Condensed]()
    for seed in _seeds(learners):
        if isinstance(method, DatasetDistillation):
            sets.append(distil_dataset(method, data, seed))
        elif isinstance(method, Mtt):
            sets.append(match_trajectories(method, data, seed))
        else:
            assert prior
            sets.append(condense_latents(method, data, train, prior, seed))
        progress.advance(1, 0, f"{sets[-1].begun:.4f} -> {sets[-1].ended:.4f}")
    progress.end()
    return _written(sets, out)


def choose_sets(
    method: Dilm, learners: LearnerKnobs, texts: Place, pool: Place, *, out: Place
) -> StageResult:
    """The same of generated texts."""
    classes = read_texts(texts)["train"].classes
    sets = [chosen_texts(pool, method.per_class, classes, seed) for seed in _seeds(learners)]
    return _written(sets, out)


def try_learners(
    method: AnyMethod,
    learners: LearnerKnobs,
    embeddings: Place,
    sets: Place,
    before: Place | None,
    *,
    out: Place,
) -> StageResult:
    """Fresh learners of the condensed sets and of what they are held against; `before`: the sets of
    a generator that was not matched."""
    data = read_embeddings(embeddings)
    train, test = data["train"], data["test"]
    condensed = read_sets(sets / SETS)
    tried = [try_sets(CONDENSED, condensed, test, learners)]
    if condensed[0].rates:
        tried.append(try_sets(OWN_STEPS, condensed, test, learners, has_own_steps=True))
    if before:
        tried.append(try_sets(LM_ONLY, read_sets(before / SETS), test, learners))
    subsets = random_subsets(train, method.per_class, learners)
    central = central_subset(train, method.per_class)
    tried += [
        try_sets(RANDOM, subsets, test, learners),
        try_sets(CENTRES, [central], test, learners),
        try_sets(WHOLE, [whole(train)], test, learners),
    ]
    write_tried(tried, out / LEARNERS)
    number = sum(_num_learners(one) for one in tried)
    return StageResult(number, number)


def _seeds(learners: LearnerKnobs) -> list[torch.Generator]:
    return [generator_of(learners.seed, "condense", number) for number in range(learners.sets)]


def _written(sets: list[Condensed], out: Place) -> StageResult:
    write_sets(sets, out / SETS)
    number = sum(len(one.labels) for one in sets)
    return StageResult(number, number)


def _num_learners(tried: Tried) -> int:
    return tried.is_right.shape[0] * tried.is_right.shape[1]
