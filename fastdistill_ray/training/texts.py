"""How a student reads the rows of a store: its prompts, and the ids of what others wrote."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fastdistill_ray.models import (
    fetch_without_weights,
    load_config,
    same_tokenizer,
    tokenizer_of,
)
from fastdistill_ray.prompts import (
    Prompted,
    PromptKnobs,
    build_messages,
    own_words,
    render,
    template_for_others,
    written_by,
)
from fastdistill_ray.training.alignment import Aligner, Reading, read_vocabulary
from fastdistill_ray.training.reading import StudentText, completion_ids


def student_text(
    folder: str,
    tokenizer: Any,
    prompt: PromptKnobs,
    teacher_prompts: Mapping[str, PromptKnobs],
    frozen: Prompted | None = None,
    explained: str = "",
) -> StudentText:
    """How the student of a folder reads group rows: its prompt, and whether a teacher's token ids
    are its own: where one of both prompts opens the assistant's thoughts and the other does not,
    they are not. `explained`: the system text that thoughts follow where they are trained apart."""
    eos_ids = generation_eos(folder)
    _, begun, end_id = written_by(tokenizer, prompt)

    @cache
    def has_ids_of(teacher: str) -> bool:
        other = tokenizer_of(teacher)
        return same_tokenizer(tokenizer, other) and (
            written_by(other, teacher_prompts.get(teacher, prompt)).opening == begun
        )

    def encode_text(text: str) -> list[int]:
        # What looks like a control token in a text is text.
        return tokenizer.encode(
            own_words(text, begun), add_special_tokens=False, split_special_tokens=True
        )

    def prompt_by(tokenizer: Any, prompt: PromptKnobs) -> Callable[[dict[str, Any]], list[int]]:
        return lambda row: render(
            build_messages(row["question"], prompt, row["options"]), tokenizer, prompt
        )

    return StudentText(
        encode_prompt=prompt_by(tokenizer, prompt),
        encode_text=encode_text,
        has_ids_of=has_ids_of,
        eos_id=tokenizer.eos_token_id if end_id is None else end_id,
        eos_ids=frozenset(
            one for one in (tokenizer.eos_token_id, end_id, *eos_ids) if one is not None
        ),
        encode_frozen_prompt=(
            prompt_by(tokenizer_of(frozen.model), frozen.prompt) if frozen else None
        ),
        encode_explained_prompt=(
            prompt_by(tokenizer, prompt.model_copy(update={"system": explained}))
            if explained
            else None
        ),
        template=template_for_others(tokenizer, prompt) if prompt.template else "",
    )


def read_by_both(
    text: StudentText,
    tokenizer: Any,
    frozen: Prompted,
    student_prompt: PromptKnobs,
    teacher_prompts: Mapping[str, PromptKnobs],
) -> StudentText:
    """`student_text` of a student beside a frozen model whose tokenizer need not be the student's:
    ids that were drawn stay as they are, the other side's are those of the same text."""
    folder, other_tokenizer = fetch_without_weights(frozen.model), tokenizer_of(frozen.model)
    other = student_text(folder, other_tokenizer, frozen.prompt, teacher_prompts)
    aligner = Aligner(
        read_vocabulary(tokenizer, text.eos_ids), read_vocabulary(other_tokenizer, other.eos_ids)
    )
    begun = written_by(tokenizer, student_prompt).opening

    def read_otherwise(
        row: dict[str, Any], completion: dict[str, Any], own_ids: list[int]
    ) -> Reading | None:
        ids = completion_ids(completion, row["teacher"], other)
        return aligner.read(own_ids, ids, own_words(completion["text"], begun))

    return text._replace(read_otherwise=read_otherwise, aligner=aligner)


def generation_eos(folder: str) -> list[int | None]:
    """Ids that end a text by the folder's generation config, or by its config."""
    from transformers import GenerationConfig  # noqa: PLC0415  slow

    if (Path(folder) / "generation_config.json").is_file():
        found = GenerationConfig.from_pretrained(folder).eos_token_id
    else:
        found = GenerationConfig.from_model_config(load_config(folder)).eos_token_id
    return found if isinstance(found, list) else [found]
