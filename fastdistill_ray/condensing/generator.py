"""The generator of DiLM: a language model that writes a text of a class.

Legend: B texts, T tokens of the longest.
"""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from fastdistill_ray.condensing.condensed import generator_of
from fastdistill_ray.condensing.encoder import Encoder, read_scale
from fastdistill_ray.condensing.knobs import Dilm, EncoderKnobs
from fastdistill_ray.condensing.texts import Labelled, read_texts
from fastdistill_ray.errors import UserError
from fastdistill_ray.models import (
    fetch_model,
    fetch_without_weights,
    load_config,
    load_tokenizer,
    quiet_transformers,
)
from fastdistill_ray.progress import Progress
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import write_parquet

WEIGHTS, POOL = "trained.safetensors", "pool.parquet"
AT_ONCE = 64  # texts written side by side
PROMPT = "Class: {label}\nText:"
IGNORED = -100


class Generator:
    """`weights`: where a stage left what it trained; none: the model as it is."""

    def __init__(self, knobs: Dilm, weights: Place | None = None) -> None:
        folder = fetch_model(knobs.model)
        self.knobs, self.tokenizer = knobs, load_tokenizer(folder)
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model: Any = model.eval()  # no dropout, in training neither
        if weights:
            kept = safetensors.torch.load((weights / WEIGHTS).read_bytes())
            model.load_state_dict(kept, strict=False)
        self.trained = _trained(self.model, knobs.frozen_blocks)

    def losses(self, texts: list[str], labels: list[str]) -> Tensor:
        """[B]: of each text after its class, the mean over its tokens, end included."""
        end = self.tokenizer.eos_token_id
        rows, spans = [], []
        for text, label in zip(texts, labels, strict=True):
            prompt, written = self._prompt(label), self._ids(f" {text}")
            rows.append(torch.tensor([*prompt, *written, end]))
            spans.append((len(prompt), len(rows[-1])))
        ids_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=end)
        labels_BT = torch.full_like(ids_BT, IGNORED)
        for row, (start, stop) in enumerate(spans):
            labels_BT[row, start:stop] = ids_BT[row, start:stop]
        logits = self.model(input_ids=ids_BT, use_cache=False).logits[:, :-1]
        each_BT = torch.nn.functional.cross_entropy(
            logits.mT, labels_BT[:, 1:], ignore_index=IGNORED, reduction="none"
        )
        return each_BT.sum(dim=1) / (labels_BT[:, 1:] != IGNORED).sum(dim=1)

    def sample(self, label: str, count: int) -> Iterator[str | None]:
        """As many texts of this class, drawn by torch's own random numbers; None: not ended."""
        prompt = torch.tensor([self._prompt(label)])
        end = self.tokenizer.eos_token_id
        for start in range(0, count, AT_ONCE):
            with torch.no_grad():
                ids = self.model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    do_sample=True,
                    top_k=0,
                    top_p=self.knobs.top_p,
                    max_new_tokens=self.knobs.max_new_tokens,
                    num_return_sequences=min(AT_ONCE, count - start),
                    eos_token_id=end,
                    pad_token_id=end,
                )
            for row in ids[:, prompt.shape[1] :].tolist():
                text = self.tokenizer.decode(row[: row.index(end)]) if end in row else None
                yield " ".join(text.split()) if text is not None else None

    def save(self, out: Place) -> None:
        kept = {name: tensor.detach().contiguous() for name, tensor in self.trained.items()}
        (out / WEIGHTS).put(safetensors.torch.save(kept))

    def _prompt(self, label: str) -> list[int]:
        return self._ids(PROMPT.format(label=label))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids


def check_generator(knobs: Dilm) -> None:
    config = load_config(fetch_without_weights(knobs.model)).get_text_config()
    if knobs.frozen_blocks >= config.num_hidden_layers:
        raise UserError(
            f"method.frozen_blocks: {knobs.frozen_blocks}, but {knobs.model} has "
            f"{config.num_hidden_layers} blocks, and one at least must be trained"
        )


def train_lm(knobs: Dilm, texts: Place, *, out: Place) -> StageResult:
    """Cross-entropy of labelled texts (arXiv 2404.00264, sec. 3.1), by AdamW."""
    train = read_texts(texts)["train"]
    generator = Generator(knobs)
    adam = torch.optim.AdamW(generator.trained.values(), lr=knobs.lm_learning_rate)
    rng, losses = random.Random(f"dilm/{knobs.seed}"), []
    progress = Progress("language model", knobs.lm_steps)
    for _ in range(knobs.lm_steps):
        rows = rng.sample(range(len(train.texts)), min(knobs.lm_batch, len(train.texts)))
        labels = [train.classes[train.labels[row]] for row in rows]
        loss = generator.losses([train.texts[row] for row in rows], labels).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
        progress.advance(1, 0, f"loss {losses[-1]:.3f}")
    progress.end()
    generator.save(out)
    steps = len(losses)
    return StageResult(steps, steps, facts={"loss_first": losses[0], "loss_last": losses[-1]})


def write_pool(
    knobs: Dilm,
    weights: Place,
    texts: Place,
    embeddings: Place,
    encoder: EncoderKnobs,
    *,
    out: Place,
) -> StageResult:
    """Texts of each class, each once, and their standardised embeddings."""
    train = read_texts(texts)["train"]
    found, left = _sampled(knobs, weights, train)
    for name in train.classes:
        if name not in {label for _, label in found}:
            raise UserError(
                f"method.pool: none of {knobs.pool} generated texts of {name!r} came to an end; "
                "raise it, method.lm_steps or method.max_new_tokens"
            )
    written = [text for text, _ in found]
    points = read_scale(embeddings)(Encoder(encoder).of_texts(written, "embed generated"))
    rows = [
        {"text": text, "label": train.classes.index(label), "point": point}
        for (text, label), point in zip(found, points.tolist(), strict=True)
    ]
    write_parquet(pa.Table.from_pylist(rows), out / POOL)
    return StageResult(knobs.pool * len(train.classes), len(rows), dict(left))


def _sampled(
    knobs: Dilm, weights: Place, train: Labelled
) -> tuple[list[tuple[str, str]], Counter[str]]:
    generator, left = Generator(knobs, weights), Counter[str]()
    found: dict[tuple[str, str], None] = {}
    progress = Progress("generate", knobs.pool * len(train.classes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_of("pool", knobs.seed).initial_seed())
        for label in train.classes:
            for text in generator.sample(label, knobs.pool):
                if text and (text, label) not in found:
                    found[text, label] = None
                else:
                    left["unfinished" if text is None else "repeated" if text else "empty"] += 1
                progress.advance(1, 0)
    progress.end()
    return list(found), left


def _trained(model: Any, frozen_blocks: int) -> dict[str, Tensor]:
    """What is trained, by name; all else no longer asks for a gradient."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    frozen = set()
    for module in blocks[:frozen_blocks]:
        frozen |= set(module.parameters())
    if frozen_blocks:
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            frozen |= set(module.parameters())
    for parameter in frozen:
        parameter.requires_grad_(False)
    return {name: one for name, one in model.named_parameters() if one.requires_grad}
