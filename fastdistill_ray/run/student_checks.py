"""Whether students can be trained as a recipe asks, found out before anything expensive starts."""

import logging

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import (
    fetch_without_weights,
    load_config,
    router_coefficient,
    same_tokenizer,
    tokenizer_of,
    vocabulary_of,
)
from fastdistill_ray.objectives.contract import Relations
from fastdistill_ray.objectives.hidden import Pkd
from fastdistill_ray.prompts import CLOSE, OPEN, Prompted, written_by
from fastdistill_ray.recipe.derived import Scorer, StudentSpec, speaker_of, students
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.training.alignment import read_vocabulary
from fastdistill_ray.training.knobs import LoraKnobs, TrainingKnobs
from fastdistill_ray.training.relations import check_attention, projected_widths
from fastdistill_ray.training.router import trained_coefficient
from fastdistill_ray.training.trial import check_student

logger = logging.getLogger(__name__)


def check_frozen(recipe: Recipe) -> None:
    """A model whose distributions are learned has its student's vocabulary and ends of turns, or a
    tokenizer whose texts can be aligned with the student's, where the kind does so."""
    for student in students(recipe):
        _check_views(recipe, student)
        if not (speaker := speaker_of(recipe, student)):
            continue
        teacher, field = speaker.prompted, speaker.field
        _check_size(student)
        _check_taps(student, teacher.model, recipe.training.max_seq_len)
        if student.objective.needs.across:
            _check_bytes(recipe, student, speaker)
            continue
        if teacher == Prompted(student.model, recipe.student.prompt):
            continue
        kind = student.objective.kind
        own, other = tokenizer_of(student.model), tokenizer_of(teacher.model)
        alike = f"{student.section}.kind: {kind} compares distributions token by token; {field}"
        if not same_tokenizer(own, other):
            raise UserError(
                f"{alike} {teacher.model} has another tokenizer than {student.model_field} "
                f"{student.model}; take models of one family, a kind that aligns texts by bytes, "
                "such as uld or byte_kl, or one that learns from texts, such as sft or advdistill"
            )
        mine, its = (
            written_by(tokenizer, prompt)
            for tokenizer, prompt in ((own, recipe.student.prompt), (other, teacher.prompt))
        )
        for what, one, two in (
            ("begins an answer with", mine.opening, its.opening),
            ("ends a turn with token", mine.end_id, its.end_id),
        ):
            if one != two:
                raise UserError(
                    f"{alike} {teacher.model} {what} {two!r}, the student {one!r}; set "
                    "student.prompt.template or template_args"
                )
        rows = {
            name: load_config(fetch_without_weights(name)).get_text_config().vocab_size
            for name in (student.model, teacher.model)
        }
        used = min(len(own), rows[student.model])
        if rows[teacher.model] < used:
            raise UserError(
                f"{alike} {teacher.model} has a head of {rows[teacher.model]} rows, the student "
                f"uses {used}; take models of one family"
            )


def _check_views(recipe: Recipe, student: StudentSpec) -> None:
    """The text that is the answer alone does not stand inside of thoughts."""
    begun = written_by(tokenizer_of(student.model), recipe.student.prompt).opening
    if student.objective.needs.views and OPEN in begun and CLOSE not in begun:
        raise UserError(
            f"{student.section}.kind: {student.objective.kind} trains the answer alone, and the "
            f"template of {student.model_field} {student.model} opens thoughts in every prompt; "
            "set student.prompt.template, or template_args such as {enable_thinking: false}"
        )


def _check_bytes(recipe: Recipe, student: StudentSpec, speaker: Scorer) -> None:
    """What tokens of both sides stand for is known to the byte, and both begin with one byte."""
    own = f"{student.section}.kind: {student.objective.kind} aligns texts byte by byte; "
    sides = (
        (student.model_field, Prompted(student.model, recipe.student.prompt)),
        (speaker.field, speaker.prompted),
    )
    openings = []
    for field, (model, prompt) in sides:
        tokenizer = tokenizer_of(model)
        try:
            read_vocabulary(tokenizer, frozenset())
        except UserError as error:
            raise UserError(
                f"{own}{field} {model}: {error}; take another model, or a kind that learns from "
                "texts alone, such as sft or advdistill"
            ) from error
        openings.append(written_by(tokenizer, prompt).opening)
    if openings[0] != openings[1]:
        raise UserError(
            f"{own}{speaker.field} {speaker.prompted.model} begins an answer with {openings[1]!r}, "
            f"the student {openings[0]!r}; set student.prompt.template or template_args"
        )


def _check_size(student: StudentSpec) -> None:
    """There are as many tokens as are to be stored of each."""
    signal = student.objective.needs.signal
    if signal and signal.kind == "topk" and signal.size >= (size := vocabulary_of(student.model)):
        raise UserError(
            f"{student.section}.k: {signal.size} of the {size} tokens that {student.model} has "
            "leave no rest; take fewer, or a kind that compares all of them, such as forward_kl"
        )


def _check_taps(student: StudentSpec, teacher: str, max_seq_len: int) -> None:
    """Blocks whose outputs are compared are there, and as wide on both sides where nothing makes
    them so."""
    needs = student.objective.needs
    if not needs.taps and not needs.relations:
        return
    own, other = (
        load_config(fetch_without_weights(model)).get_text_config()
        for model in (student.model, teacher)
    )
    if needs.taps and own.hidden_size != other.hidden_size and not needs.bridge:
        raise UserError(
            f"{student.section}.kind: {student.objective.kind} compares hidden states, which "
            f"teacher.model {teacher} has {other.hidden_size} wide and {student.model_field} "
            f"{student.model} {own.hidden_size}; take a student of the teacher's width, such as "
            "some of its blocks by student.init.layers"
        )
    is_last_left = isinstance(student.objective, Pkd)
    named = [pair for pair in needs.taps if min(pair) >= 0]
    named += [needs.relations.blocks] if needs.relations else []
    for place, pair in enumerate(named):
        for block, config, who in zip(pair, (own, other), ("student", "teacher"), strict=True):
            if block >= (most := config.num_hidden_layers - is_last_left):
                reason = "; the last one's is what the distribution is made of" * is_last_left
                raise UserError(
                    f"{student.section}.layers.{place}: block {block} of the {who}, whose outputs "
                    f"are compared up to block {most - 1}{reason}"
                )
    if needs.relations and needs.relations.num_heads:
        _check_heads(student, teacher, needs.relations)
    elif needs.relations:
        heads = own.num_attention_heads, other.num_attention_heads
        _check_attention(student, teacher, needs.relations, heads, max_seq_len)


def _check_attention(
    student: StudentSpec,
    teacher: str,
    relations: Relations,
    heads: tuple[int, int],
    max_seq_len: int,
) -> None:
    """Attention can be compared head by head."""
    own = f"{student.section}.kind: {student.objective.kind}"
    if heads[0] != heads[1]:
        raise UserError(
            f"{own} compares attention head by head, of which teacher.model {teacher} has "
            f"{heads[1]} and {student.model_field} {student.model} {heads[0]}; take minilmv2"
        )
    models = (student.model_field, student.model), ("teacher.model", teacher)
    for (field, model), block in zip(models, relations.blocks, strict=True):
        try:
            check_attention(fetch_without_weights(model), block, max_seq_len)
        except UserError as error:
            raise UserError(f"{own}: {field} {model}: {error}") from error


def _check_heads(student: StudentSpec, teacher: str, relations: Relations) -> None:
    """What is related is there, and can be split into as many heads on both sides."""
    models = (student.model_field, student.model), ("teacher.model", teacher)
    for (field, model), block in zip(models, relations.blocks, strict=True):
        try:
            widths = projected_widths(fetch_without_weights(model), block)
        except UserError as error:
            raise UserError(f"{student.section}.kind: {field} {model}: {error}") from error
        for name, width in widths.items():
            if width % relations.num_heads:
                raise UserError(
                    f"{student.section}.relation_heads: {relations.num_heads} heads do not divide "
                    f"the {width} numbers that {name} of {field} {model} gives"
                )


def check_students(recipe: Recipe) -> None:
    """A small copy of each student passes its trial, and is trained as transformers computes it."""
    ranks, per_step = recipe.pools.student.workers, recipe.training.groups_per_step
    if ranks > per_step:
        logger.warning(
            "pools.student.workers: %d ranks share the %d groups of a step "
            "(training.groups_per_step), which are split by completions and their prompts computed "
            "more than once; some ranks may wait for the longest completion",
            *(ranks, per_step),
        )
    models = {student.model: student.model_field for student in students(recipe)}
    training, on_gpu = recipe.training, recipe.pools.student.gpus > 0
    for model, field in models.items():
        folder = fetch_without_weights(model)
        _say_router_loss(f"{field}: {model}", folder, training)
        check_student(
            field,
            folder,
            shared_prompt=training.shared_prompt,
            trains_router=training.router_loss,
            lora=training.lora,
            on_gpu=on_gpu,
        )
    for student in students(recipe):
        speaker = speaker_of(recipe, student)
        if not speaker or speaker.prompted.model in models:
            continue
        models[speaker.prompted.model] = speaker.field
        check_student(  # it is computed by the same code
            speaker.field,
            fetch_without_weights(speaker.prompted.model),
            shared_prompt=training.shared_prompt,
            trains_router=False,
            lora=LoraKnobs(),
            on_gpu=on_gpu,
        )


def _say_router_loss(student: str, folder: str, training: TrainingKnobs) -> None:
    config = load_config(folder)
    coefficient = router_coefficient(config)
    if coefficient and not (training.router_loss and trained_coefficient(config)):
        logger.warning(
            "%s is a mixture of experts that is trained without the loss that evens its choices "
            "(its config's coefficient: %g): %s",
            *(student, coefficient),
            "transformers has none of its family"
            if training.router_loss
            else "training.router_loss is false",
        )
