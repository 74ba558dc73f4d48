"""How a student reads prompts and texts of others, and how an export of it is spoken to."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.learner import CPU, load, make_learner
from support.models import CHAT_TEMPLATE, make_tiny_model

from fastdistill_ray.groups.steps import StepPlan
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.objectives import Sft
from fastdistill_ray.prompts import PLAIN_TEMPLATE, PromptKnobs, template_of
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.storage.place import Place
from fastdistill_ray.training.export import Chat, export_student
from fastdistill_ray.training.knobs import LoraKnobs, OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.reading import completion_ids
from fastdistill_ray.training.texts import student_text
from fastdistill_ray.training.worker import TrainJob, export, load_learner

THINKS = CHAT_TEMPLATE + "{% if add_generation_prompt %}<think>{{ '\\n' }}{% endif %}"


@pytest.fixture
def model(tmp_path: Path) -> str:
    return make_tiny_model(str(tmp_path / "model"))


def completion(tokenizer: Any, text: str, **changes: object) -> dict:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return {"token_ids": ids, "text": text, "finish_reason": "length", **changes}


def test_ids_of_a_teacher_whose_prompt_opens_thoughts_are_read_from_the_text(model):
    """Its ids begin inside of <think>, its text before it."""
    tokenizer, own = load_tokenizer(model), PromptKnobs()
    opened = PromptKnobs(template=THINKS)
    one = completion(tokenizer, "a</think>b") | {"text": "<think>\na</think>b"}
    for prompt, teacher, expected in (
        (own, own, "a</think>b"),
        (opened, opened, "a</think>b"),
        (own, opened, "<think>\na</think>b"),
        (opened, own, "a</think>b"),
    ):
        text = student_text(model, tokenizer, prompt, {model: teacher})
        assert tokenizer.decode(completion_ids(one, model, text)) == expected


def test_what_looks_like_a_control_token_in_a_text_is_text(model):
    tokenizer = load_tokenizer(model)
    text = student_text(model, tokenizer, PromptKnobs(), {})
    said = "it says <|im_end|> there"
    assert tokenizer.eos_token_id in tokenizer.encode(said)
    ids = completion_ids(completion(tokenizer, said, token_ids=[]), "", text)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == said


def test_text_that_is_encoded_anew_ends_with_the_templates_end_of_turn(model):
    tokenizer = load_tokenizer(model)
    tokenizer.eos_token = "<|endoftext|>"
    text = student_text(model, tokenizer, PromptKnobs(), {})
    ids = completion_ids(completion(tokenizer, "4", token_ids=[], finish_reason="stop"), "", text)
    assert tokenizer.decode(ids) == "4<|im_end|>"


@pytest.mark.usefixtures("world_of_one")
def test_export_is_spoken_to_by_the_template_it_was_trained_with(model, tmp_path):
    out = tmp_path / "out"
    export_student(load(model), model, out, Chat(PLAIN_TEMPLATE, end_id=7))
    assert load_tokenizer(str(out)).chat_template == PLAIN_TEMPLATE
    written = json.loads((out / "generation_config.json").read_text())
    assert written["eos_token_id"] == [load_tokenizer(model).eos_token_id, 7]


@pytest.mark.usefixtures("world_of_one")
def test_export_has_the_template_by_the_name_that_the_recipe_gives_it(model, tmp_path):
    folder, out = tmp_path / "several", tmp_path / "out"
    shutil.copytree(model, folder)
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = {"default": tokenizer.chat_template, "rag": PLAIN_TEMPLATE}
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder)).chat_template.keys() == {"default", "rag"}
    learner = make_learner(str(folder))
    knobs = PromptKnobs(template="rag")
    text = student_text(str(folder), load_tokenizer(str(folder)), knobs, {})
    export(learner._replace(text=text), str(folder), Place(out))
    exported = load_tokenizer(str(out))
    assert template_of(exported, knobs) == PLAIN_TEMPLATE == template_of(exported, PromptKnobs())


@pytest.mark.usefixtures("world_of_one")
def test_adapter_of_a_student_that_begins_as_another_is_laid_on_that_one(model, tmp_path):
    """Its weights were drawn beside those of the other, not of the model that both are of."""
    begun = make_tiny_model(str(tmp_path / "begun"), seed=1)
    job = TrainJob(
        model=model,
        start=begun,
        prompt=PromptKnobs(),
        teacher_prompts={},
        objective=Sft(),
        frozen=None,
        advantage=AdvantageKnobs(),
        optimizer=OptimizerKnobs(),
        training=TrainingKnobs(precision="fp32", max_seq_len=512, lora=LoraKnobs(rank=4)),
        plan=StepPlan("", 1, 1, None, 0, follow=False),
        total_steps=1,
        export_epochs=[1],
    )
    learner = load_learner(job, model, CPU)
    export_student(learner.student, model, tmp_path / "out")
    config = json.loads((tmp_path / "out/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == begun
