"""Points that a model makes of learned latents: GLaD with an encoder of texts as the prior.

Legend in heads.py, T tokens of a text, V tokens that latents choose among, W the model's width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastdistill_ray.condensing.condensed import Condensed, ends, finite, random_rows, rows_of
from fastdistill_ray.condensing.encoder import Embedded, Encoder, Scale
from fastdistill_ray.condensing.heads import (
    head_gradient,
    one_hot,
    random_heads,
    with_ones,
)
from fastdistill_ray.condensing.knobs import Glad
from fastdistill_ray.condensing.matching import gradient_distance
from fastdistill_ray.condensing.points import on_points
from fastdistill_ray.condensing.texts import Labelled


class Prior(NamedTuple):
    """Latents [T, V] -> a point: a softmax of each token's latents mixes the rows of the encoder's
    embedding that belong to `ids` [V]; the encoder reads those vectors as it reads a text's."""

    encoder: Encoder
    scale: Scale
    ids: Tensor

    def __call__(self, latents: list[Tensor]) -> Tensor:
        """[N, W], standardised; a gradient goes through to the latents."""
        table_VW = self.encoder.vocabulary_VW[self.ids]
        inputs = [latent.softmax(dim=-1) @ table_VW for latent in latents]
        return self.scale(self.encoder.of_tokens(inputs))

    def begun(self, text: str, confidence: float) -> Tensor:
        """[T, V]: latents that mostly choose a text's own tokens."""
        own_T = torch.tensor(self.encoder.ids(text))
        return confidence * (own_T[:, None] == self.ids).float()

    def nearest(self, latent_TV: Tensor) -> str:
        """The text of each position's likeliest token."""
        return self.encoder.tokenizer.decode(self.ids[latent_TV.argmax(dim=-1)].tolist()).strip()


def prior_of(encoder: Encoder, scale: Scale, texts: list[str]) -> Prior:
    """Latents choose among the tokens of these texts: a departure, which keeps V small."""
    ids = sorted({token for text in texts for token in encoder.ids(text)})
    return Prior(encoder, scale, torch.tensor(ids))


def condense_latents(
    knobs: Glad, data: Embedded, train: Labelled, prior: Prior, seed: torch.Generator
) -> Condensed:
    """Latents whose points give heads the gradients of real texts, class by class (arXiv
    2305.01649, eq. 2, with the gradient matching of arXiv 2006.05929), by Adam, from real texts.

    Departures: a language model's first blocks on mixtures of its tokens in place of a StyleGAN;
    heads over embeddings; the cosine of a whole head; all real texts in every iteration.
    """
    num_classes, dtype = len(train.classes), data.points.dtype
    rows = random_rows(data, knobs.per_class, seed)
    labels = data.labels[rows]
    begun = [prior.begun(train.texts[row], knobs.confidence) for row in rows.tolist()]
    latents = [latent.requires_grad_() for latent in begun]
    adam = torch.optim.Adam(latents, lr=knobs.learning_rate)
    targets = one_hot(labels, num_classes, dtype)
    losses, heads = [], torch.empty(0)
    for iteration in range(knobs.iterations):
        if iteration % knobs.restart_every == 0:
            heads = random_heads(
                (knobs.learners, num_classes, data.points.shape[1] + 1), seed, dtype
            )
        points = prior(latents)
        loss = class_distance(heads, data, Embedded(points, labels))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(finite(loss.item(), iteration))
        rates = [knobs.learner_rate] * knobs.learner_steps
        heads = on_points(heads, points.detach(), targets, rates)
    with torch.no_grad():
        points = prior(latents)
    texts = [prior.nearest(latent.detach()) for latent in latents]
    return Condensed(points, labels, [], texts, *ends(losses))


def class_distance(heads: Tensor, real: Embedded, made: Embedded) -> Tensor:
    """The mean over heads and classes of the distance between both gradients."""
    num_classes = heads.shape[1]
    found = []
    for number in range(num_classes):
        gradients = []
        for data in (real, made):
            rows = rows_of(data.labels, number)
            targets = one_hot(data.labels[rows], num_classes, heads.dtype)
            gradients.append(head_gradient(heads, with_ones(data.points[rows]), targets))
        found.append(gradient_distance(*gradients).mean())
    return torch.stack(found).mean()
