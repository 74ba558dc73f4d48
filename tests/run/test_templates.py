"""Models without a chat template of their own, through a whole run."""

import json

import pytest
from support.jobs import run_job, stage_folder, tiny_recipe, write_recipe
from support.models import make_tiny_model, write_gguf

from fastdistill_ray.models import load_tokenizer
from fastdistill_ray.prompts import PLAIN_TEMPLATE

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.parametrize("is_gguf", [False, True], ids=["folder", "gguf"])
def test_base_model_is_distilled_and_evaluated_with_the_plain_template(tmp_path, head, is_gguf):
    """Evaluated by vLLM, which renders nothing itself."""
    model = make_tiny_model(str(tmp_path / "model"))
    (tmp_path / "model" / "chat_template.jinja").unlink()
    if is_gguf:
        model = write_gguf(model, str(tmp_path / "tiny.gguf"), chat_template="")
    plain = {"prompt": {"template": "plain"}}
    vllm = {"max_model_len": 1024, "enforce_eager": True, "cpu_kv_cache_gib": 1}
    recipe = tiny_recipe(model, student=plain, evaluation={"engine": vllm})
    recipe["teacher"] |= plain
    run = tmp_path / "run"
    run_job("distill", write_recipe(tmp_path, recipe), run, head)
    (student,) = run.glob("stages/train/*/epoch_*")
    template = load_tokenizer(str(student)).chat_template
    assert template.endswith(PLAIN_TEMPLATE.partition("\n")[2]) and "adds_bos" not in template
    results = json.loads((run / "results.json").read_text())
    assert results
    assert stage_folder(run, "groups").exists()
