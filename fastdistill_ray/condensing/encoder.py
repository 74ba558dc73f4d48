"""Texts -> embeddings: means over tokens of what a block of a model puts out, standardised.

Legend: N texts, T tokens of the longest, W the model's width, V tokens of the vocabulary.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor, nn
from transformers import AutoModel

from fastdistill_ray.condensing.knobs import EncoderKnobs
from fastdistill_ray.condensing.texts import SPLITS, read_texts
from fastdistill_ray.cutting import block_lists
from fastdistill_ray.errors import UserError
from fastdistill_ray.models import (
    fetch_model,
    fetch_without_weights,
    load_config,
    load_tokenizer,
    quiet_transformers,
)
from fastdistill_ray.progress import Progress
from fastdistill_ray.run_files import StageResult, read_json, write_json
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet, write_parquet

EMBEDDINGS, SCALE = "embeddings.parquet", "scale.json"
LEAST_DEVIATION = 1e-6  # below it a dimension never changes and is left as it is


class Scale(NamedTuple):
    """Mean and deviation [W] of training embeddings."""

    mean: Tensor
    deviation: Tensor

    def __call__(self, embeddings_NW: Tensor) -> Tensor:
        return (embeddings_NW - self.mean) / self.deviation


class Embedded(NamedTuple):
    """Standardised embeddings [N, W] in float32 and labels [N] of a split."""

    points: Tensor
    labels: Tensor


class Encoder:
    """Frozen. A first token is read and not counted: on it models put what is of no token."""

    def __init__(self, knobs: EncoderKnobs) -> None:
        check_encoder(knobs)
        folder = fetch_model(knobs.model)
        self.knobs, self.tokenizer = knobs, load_tokenizer(folder)
        with quiet_transformers():
            model = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self.model = model.eval().requires_grad_(False)
        blocks = _blocks(self.model, knobs)
        del blocks[knobs.layer :]
        self.block: Any = blocks[-1]
        first = self.tokenizer.bos_token_id
        self.first = self.tokenizer.eos_token_id if first is None else first

    @property
    def vocabulary_VW(self) -> Tensor:
        return self.model.get_input_embeddings().weight

    def ids(self, text: str) -> list[int]:
        """At least one."""
        found = self.tokenizer(text, add_special_tokens=False).input_ids
        return found[: self.knobs.max_tokens] or [self.first]

    def of_texts(self, texts: list[str], label: str) -> Tensor:
        """[N, W], as they are."""
        ids = [self.ids(text) for text in texts]
        progress, rows = Progress(label, len(texts)), [torch.empty(0)] * len(texts)
        table = self.vocabulary_VW
        for batch in _batches(ids, self.knobs.batch_tokens):
            with torch.no_grad():
                found = self.of_tokens([table[torch.tensor(ids[row])] for row in batch])
            for row, embedding in zip(batch, found, strict=True):
                rows[row] = embedding
            progress.advance(len(batch), sum(len(ids[row]) for row in batch))
        progress.end()
        return torch.stack(rows)

    def of_tokens(self, inputs: list[Tensor]) -> Tensor:
        """[N, W] of texts whose tokens are vectors [T, W]: rows of `vocabulary_VW`, or mixtures.

        Padding is on the right, which no token of a causal model sees.
        """
        first_1W = self.vocabulary_VW[self.first][None]
        lengths = torch.tensor([len(one) for one in inputs])
        padded_NTW = nn.utils.rnn.pad_sequence(
            [torch.cat([first_1W, one]) for one in inputs], batch_first=True
        )
        kept: list[Tensor] = []
        hook = self.block.register_forward_hook(lambda *given: kept.append(_state(given[-1])))
        try:
            self.model(inputs_embeds=padded_NTW, use_cache=False)
        finally:
            hook.remove()
        place_1T = torch.arange(padded_NTW.shape[1])[None]
        counted_NT = (place_1T >= 1) & (place_1T <= lengths[:, None])
        return (kept[0] * counted_NT[..., None]).sum(dim=1) / lengths[:, None]


def check_encoder(knobs: EncoderKnobs) -> None:
    """UserError where the model has no such block."""
    config = load_config(fetch_without_weights(knobs.model)).get_text_config()
    if knobs.layer > config.num_hidden_layers:
        raise UserError(
            f"encoder.layer: {knobs.layer}, but {knobs.model} has {config.num_hidden_layers} blocks"
        )


def embed(texts: Place, knobs: EncoderKnobs, *, out: Place) -> StageResult:
    """Embeddings of all texts, as they are, and the scale of the training texts."""
    encoder, rows = Encoder(knobs), []
    for split, labelled in read_texts(texts).items():
        points = encoder.of_texts(labelled.texts, f"embed {split}")
        if split == "train":
            deviation = points.std(dim=0, correction=0)
            deviation[deviation < LEAST_DEVIATION] = 1.0
            write_json(
                out / SCALE, {"mean": points.mean(dim=0).tolist(), "deviation": deviation.tolist()}
            )
        rows += [
            {"split": split, "label": label, "embedding": point}
            for label, point in zip(labelled.labels, points.tolist(), strict=True)
        ]
    write_parquet(pa.Table.from_pylist(rows), out / EMBEDDINGS)
    return StageResult(len(rows), len(rows))


def read_scale(folder: Place) -> Scale:
    kept = read_json(folder / SCALE, {})
    return Scale(torch.tensor(kept["mean"]), torch.tensor(kept["deviation"]))


def read_embeddings(folder: Place) -> dict[str, Embedded]:
    """What `embed` left, standardised."""
    rows, scale = read_parquet(folder / EMBEDDINGS).to_pylist(), read_scale(folder)
    return {
        split: Embedded(
            scale(torch.tensor([row["embedding"] for row in rows if row["split"] == split])),
            torch.tensor([row["label"] for row in rows if row["split"] == split]),
        )
        for split in SPLITS
    }


def _batches(ids: list[list[int]], tokens: int) -> Iterator[list[int]]:
    """Rows of about equal lengths, of at most so many tokens with padding, or one row."""
    batch: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        if batch and (len(batch) + 1) * (len(ids[row]) + 1) > tokens:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _blocks(model: Any, knobs: EncoderKnobs) -> nn.ModuleList:
    """The one list of the model's decoder blocks."""
    lists = block_lists(model)
    if len(lists) != 1:
        raise UserError(
            f"encoder.model {knobs.model}: {model.config.model_type} has no one list of decoder "
            "blocks to read; take a model of another architecture"
        )
    parent, name = lists[0]
    return getattr(parent, name)


def _state(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
