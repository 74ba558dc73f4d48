"""DiLM: a generator whose texts give heads the gradients of real ones, and sets chosen of them.

Legend in heads.py, M generated texts of a batch.
"""

import torch

from fastdistill_ray.condensing.condensed import Condensed, finite, generator_of, rows_of
from fastdistill_ray.condensing.encoder import Embedded, read_embeddings
from fastdistill_ray.condensing.generator import POOL, Generator
from fastdistill_ray.condensing.heads import head_gradient, one_hot, random_heads, with_ones
from fastdistill_ray.condensing.knobs import Dilm
from fastdistill_ray.condensing.matching import gradient_distance, k_centres, likely_first
from fastdistill_ray.condensing.points import on_points
from fastdistill_ray.condensing.texts import read_texts
from fastdistill_ray.errors import UserError
from fastdistill_ray.progress import Progress
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet

SHARE = 0.5  # of a class's pool, among which one set is chosen


def match_gradients(
    knobs: Dilm, lm: Place, pool: Place, texts: Place, embeddings: Place, *, out: Place
) -> StageResult:
    """The generator after `lm` fitted so that a batch of its texts, each as much as it is likely,
    gives a head the gradient of real texts: min sum_c (1 - cos(g_real, sum_m a_m g_m)) / C, a =
    softmax(-loss / temperature) (arXiv 2404.00264, eq. 4 to 6), by AdamW.

    Departures: one pool of the generator before matching, which is not drawn anew; heads over
    embeddings of a frozen encoder; real texts drawn at random, not of representative sets.
    """
    train, data = read_texts(texts)["train"], read_embeddings(embeddings)["train"]
    written, made = read_pool(pool)
    generator, num_classes = Generator(knobs, lm), len(train.classes)
    adam = torch.optim.AdamW(generator.trained.values(), lr=knobs.learning_rate)
    seed, heads = generator_of("matching", knobs.seed), torch.empty(0)
    shape = (knobs.learners, num_classes, data.points.shape[1] + 1)
    progress, losses = Progress("match gradients", knobs.steps), []
    for step in range(knobs.steps):
        if step % knobs.restart_every == 0:
            heads = random_heads(shape, seed, data.points.dtype)
        adam.zero_grad()
        total, read = 0.0, []
        for number, name in enumerate(train.classes):
            rows_M = _some(rows_of(made.labels, number), knobs.batch, seed)
            rows_N = _some(rows_of(data.labels, number), knobs.real_batch, seed)
            nll_M = generator.losses(
                [written[row] for row in rows_M.tolist()], [name] * len(rows_M)
            )
            target = one_hot(torch.tensor([number]), num_classes, data.points.dtype)
            real = head_gradient(heads, with_ones(data.points[rows_N]), target)
            weights_M = likely_first(nll_M, knobs.temperature)
            copied = head_gradient(heads, with_ones(made.points[rows_M]), target, weights_M)
            loss = gradient_distance(real, copied).mean() / num_classes
            loss.backward()
            total += loss.item()
            read.append(rows_M)
        adam.step()
        losses.append(finite(total, step))
        rows = torch.cat(read)
        goals = one_hot(made.labels[rows], num_classes, data.points.dtype)
        heads = on_points(
            heads, made.points[rows], goals, [knobs.learner_rate] * knobs.learner_steps
        )
        progress.advance(1, 0, f"1 - cos {total:.4f}")
    progress.end()
    generator.save(out)
    facts = {"distance_first": losses[0], "distance_last": losses[-1]}
    return StageResult(knobs.steps, knobs.steps, facts=facts)


def read_pool(folder: Place) -> tuple[list[str], Embedded]:
    """Generated texts, and their standardised embeddings and labels."""
    rows = read_parquet(folder / POOL).to_pylist()
    points = torch.tensor([row["point"] for row in rows])
    return [row["text"] for row in rows], Embedded(
        points, torch.tensor([row["label"] for row in rows])
    )


def chosen_texts(
    pool: Place, per_class: int, classes: list[str], seed: torch.Generator
) -> Condensed:
    """Of each class the k-centres of a random half of the pool, so that another seed gives another
    set. UserError where there are too few."""
    written, made = read_pool(pool)
    chosen = []
    for number, name in enumerate(classes):
        rows = rows_of(made.labels, number)
        if len(rows) < per_class:
            raise UserError(
                f"method.pool: {len(rows)} different texts of {name!r} were generated, "
                f"method.per_class asks for {per_class}; raise the pool"
            )
        half = _some(rows, max(per_class, int(SHARE * len(rows))), seed)
        chosen.append(half[k_centres(made.points[half], per_class)])
    rows = torch.cat(chosen)
    texts = [written[row] for row in rows.tolist()]
    return Condensed(made.points[rows], made.labels[rows], [], texts)


def _some(rows: torch.Tensor, count: int, seed: torch.Generator) -> torch.Tensor:
    return rows[torch.randperm(len(rows), generator=seed)[:count]]
