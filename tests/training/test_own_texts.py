"""A teacher beside the student that does not know the texts it wrote is refused before the first
update; who wrote them is transformers in float64 here."""

from pathlib import Path

import pytest
import torch
from support.groups import make_completion, make_group, write_store
from support.learner import make_learner
from support.models import make_tiny_model
from transformers import AutoModelForCausalLM

from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.steps import Rounds, StepPlan
from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.objectives import OBJECTIVES
from fastdistill_ray.prompts import Prompted, PromptKnobs, build_messages, render
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.training.knobs import OptimizerKnobs, TrainingKnobs
from fastdistill_ray.training.own_texts import check_own_texts
from fastdistill_ray.training.worker import TrainJob, check_teacher

pytestmark = pytest.mark.usefixtures("world_of_one")
PROMPT = PromptKnobs(system="Be brief.")
TOKENS = 30


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for seed, name in enumerate(("student", "teacher", "other")):
        found[name] = make_tiny_model(str(folder / name), seed=seed, tie_word_embeddings=False)
        model = AutoModelForCausalLM.from_pretrained(found[name])
        with torch.no_grad():  # sharp, as a trained model is
            model.lm_head.weight *= 8
        model.save_pretrained(found[name])
    return found


@torch.no_grad()
def written(folder: str, key: str, num_texts: int = 3, **fields: object) -> dict:
    """A group of texts of the model that were cut, with two numbers a token, its own first."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    asked = render(build_messages("q?", PROMPT), load_tokenizer(folder), PROMPT)
    given = torch.tensor([asked] * num_texts)
    texts = model.generate(given, do_sample=True, min_new_tokens=TOKENS, max_new_tokens=TOKENS)
    ids = texts[:, len(asked) :]
    said = model(texts).logits[:, len(asked) - 1 : -1].log_softmax(-1)
    logprobs = said.gather(2, ids[:, :, None]).flatten().tolist()
    completions = [make_completion(token_ids=one, finish_reason="length") for one in ids.tolist()]
    noted = {
        "logprob_ids": [one for token in ids.flatten().tolist() for one in (token, 0)],
        "logprobs": [one for value in logprobs for one in (value, -99.0)],
    }
    return make_group(key, completions, **{"teacher": folder, **noted, **fields})


def check(models: dict[str, str], teacher: str, out: Path, groups: list[dict], **training: object):
    write_store(out, groups, is_complete=True)
    frozen = Prompted(models[teacher], PROMPT)
    learner = make_learner(
        models["student"], objective=OBJECTIVES["forward_kl"](), frozen=frozen, **training
    )
    check_own_texts(learner, models[teacher], str(out), groups)


@pytest.mark.parametrize("layout", [{}, {"micro_batch_tokens": 40, "shared_prompt": False}])
def test_teacher_that_knows_its_texts_passes_after_its_own_prompt(models, tmp_path, layout):
    groups = [written(models["teacher"], key) for key in "ab"]
    check(models, "teacher", tmp_path, groups, **layout)


def test_teacher_of_other_weights_than_who_wrote_is_refused(models, tmp_path):
    groups = [written(models["other"], "a", teacher=models["teacher"])]
    said = rf"teacher\.model {models['teacher']}: tokens of its own texts are \+\d.* set scorer"
    with pytest.raises(UserError, match=said):
        check(models, "teacher", tmp_path, groups)


@pytest.mark.parametrize(
    "fields", [{"round": 0}, {"teacher": None}, {"logprobs": None, "logprob_ids": None}]
)
def test_texts_of_the_student_of_others_and_without_numbers_say_nothing(models, tmp_path, fields):
    fields = {name: models["other"] if name == "teacher" else one for name, one in fields.items()}
    groups = [written(models["other"], "a", **{"teacher": models["teacher"]} | fields)]
    check(models, "teacher", tmp_path, groups)


def test_training_looks_where_its_teacher_wrote_and_teachers_texts_are(models, tmp_path):
    """Of rounds these are in the store that is mixed in; without one there are none."""
    teacher, objective = Prompted(models["teacher"], PROMPT), OBJECTIVES["forward_kl"]()
    groups = [written(models["other"], "a", teacher=models["teacher"])]
    write_store(tmp_path, groups, is_complete=True)
    learner = make_learner(models["student"], objective=objective, frozen=teacher)
    plan = StepPlan(str(tmp_path), 1, 1, None, 0, follow=False)
    own = plan._replace(folder="nowhere")
    mixed = [
        own._replace(rounds=Rounds(1, 1, mixed, int(bool(mixed)), False))
        for mixed in (str(tmp_path), "")
    ]

    def is_refused(plan: StepPlan, *, is_writer: bool = True) -> bool:
        job = TrainJob(
            *(models["student"], models["student"], PROMPT, {}, objective, teacher),
            *(AdvantageKnobs(), OptimizerKnobs(), TrainingKnobs(), plan, 1, [1]),
            is_writer=is_writer,
        )
        try:
            check_teacher(learner, job, {"groups": groups})
        except UserError:
            return True
        return False

    assert is_refused(plan) and not is_refused(plan, is_writer=False)
    assert [is_refused(one) for one in mixed] == [True, False]
