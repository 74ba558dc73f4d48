"""What students and teachers of unequal sizes are asked and compared by."""

import pytest
import torch
from support.jobs import tiny_recipe
from support.models import make_tiny_model, make_tokenizer
from transformers import AutoModelForCausalLM

from benchmarks.reverse_kl import requests_of, sums_of
from fastdistill_ray.recipe.loading import parse_recipe
from fastdistill_ray.records import Problem

PROMPTS = {"student": [5, 6, 7], "teacher": [9, 8, 7, 6]}
TEXTS = [[11, 12, 13, 2], [14, 2]]


@pytest.mark.parametrize("padded", ["student", "teacher"])
def test_heads_of_unequal_rows_are_compared_over_those_that_both_have(tmp_path, padded):
    folders = {who: make_tiny_model(str(tmp_path / who), seed) for seed, who in enumerate(PROMPTS)}
    models = {who: AutoModelForCausalLM.from_pretrained(one).eval() for who, one in folders.items()}
    rows = models[padded].config.vocab_size
    expected = naive(models, rows)
    models[padded].resize_token_embeddings(rows + 64, mean_resizing=False)
    found = sums_of(models, PROMPTS, TEXTS)
    assert found == pytest.approx((*expected, 6), rel=1e-4)


@torch.no_grad()
def naive(models: dict, rows: int) -> tuple[float, float]:
    """Each token by a forward of its own."""
    exact = sampled = 0.0
    for text in TEXTS:
        for place, token in enumerate(text):
            q, p = (
                models[who](torch.tensor([PROMPTS[who] + text[:place]])).logits[0, -1, :rows]
                for who in ("student", "teacher")
            )
            q, p = q.double().softmax(-1), p.double().softmax(-1)
            exact += float((q * (q / p).log()).sum())
            sampled += float((q[token] / p[token]).log())
    return exact, sampled


def test_student_of_a_model_of_its_own_is_asked_by_its_own_tokenizer(tmp_path):
    other = make_tokenizer()
    other.add_tokens(["pens"])
    teacher = make_tiny_model(str(tmp_path / "teacher"))
    student = make_tiny_model(str(tmp_path / "student"), tokenizer=other)
    recipe = parse_recipe(tiny_recipe(teacher, objective={"kind": "sft"}), "t")
    problem = Problem("a", "t", "test", "How many pens?", "1", "number")
    asked = requests_of(recipe, student, [problem])
    pens = other.convert_tokens_to_ids("pens")
    assert [pens in asked[who][0]["prompt_token_ids"] for who in asked] == [True, False]
