"""The trial of a student: what is exact passes, whatever family it is of, and every fault that was
seen is refused before anything is paid."""

import logging
import re
from pathlib import Path

import pytest
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.families import EXACT, FAMILIES, WAYS, verdict
from fastdistill_ray.errors import UserError
from fastdistill_ray.training import attention, export, student, trial
from fastdistill_ray.training.knobs import LoraKnobs
from fastdistill_ray.training.student import Student
from fastdistill_ray.training.trial import Errors, check_student

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
ROW = re.compile(r"^\| (\w+) \| (.+) \| (.+) \| (.+) \|$", re.M)
TABLE = {
    family: dict(zip(WAYS, cells, strict=True))
    for family, *cells in ROW.findall(PAGE.read_text(encoding="utf-8"))
    if family != "family"
}
SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 99}
QUICK = [
    *("llama", "qwen3", "gemma2", "granite", "opt", "gpt2", "qwen3_moe", "glm4_moe", "apertus"),
    *("gpt_oss", "stablelm", "qwen3_5_text"),
]


def config_of(family: str, folder: Path, **changes: object) -> str:
    AutoConfig.for_model(family, **{**FAMILIES[family], **changes}).save_pretrained(folder)
    return str(folder)


def check(folder: str, *, shared_prompt: bool = True, lora: LoraKnobs | None = None) -> Errors:
    return check_student(
        "student.model",
        folder,
        shared_prompt=shared_prompt,
        trains_router=True,
        lora=lora or LoraKnobs(),
        on_gpu=False,
    )


def test_page_has_a_row_of_every_family_and_no_other():
    assert set(TABLE) == set(FAMILIES)
    assert len(TABLE) >= 60


@pytest.mark.parametrize("family", QUICK)
def test_family_is_what_the_page_says(family: str) -> None:
    assert_as_written(family, "packed")


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_what_the_page_says_in_every_way(family: str) -> None:
    for way in WAYS:
        assert_as_written(family, way)


def assert_as_written(family: str, way: str) -> None:
    found = verdict(family, way)
    assert found["verdict"] == TABLE[family][way]
    if found["verdict"] == EXACT:
        assert found["logprob"] < 1e-4 and found["gradient"] < 1e-2


def test_ordinary_families_are_exact_to_rounding_and_nothing_is_said(tmp_path, caplog, capfd):
    folder = config_of("llama", tmp_path)
    caplog.set_level(logging.INFO)
    errors = check(folder)
    assert errors.logprob < 1e-14 and errors.gradient < 1e-6
    assert (caplog.text, capfd.readouterr().out) == ("", "")


def refused(folder: str, match: str, **options: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        check(folder, **options)
    assert "\n" not in str(caught.value)


def test_factor_of_the_logits_that_is_left_out_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(student, "logit_factor", lambda student, device: 1.0)
    refused(config_of("granite", tmp_path), "student.model: granite on p.* transformers computes")


def test_dropout_that_stays_on_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(student, "without_dropout", lambda config: config)
    monkeypatch.setattr(Student, "eval", lambda self: self)
    refused(config_of("starcoder2", tmp_path), "starcoder2 on p.* transformers computes")


def test_sliding_window_that_packed_groups_ignore_is_refused_for_them_alone(tmp_path, monkeypatch):
    grouped = attention.grouped_attention

    def without_window(*arguments, **options):
        return grouped(*arguments, **{**options, "sliding_window": None})

    monkeypatch.setattr(attention, "grouped_attention", without_window)
    folder = config_of("mistral", tmp_path)
    refused(folder, "mistral on packed groups: .*; set training.shared_prompt: false$")
    check(folder, shared_prompt=False)


def test_export_that_is_not_what_was_trained_is_refused(tmp_path, monkeypatch):
    written = trial.write_student

    def stale(student, state, source, out):
        spoilt = {name: 0 * one if "k_proj" in name else one for name, one in state.items()}
        written(student, spoilt, source, out)

    monkeypatch.setattr(trial, "write_student", stale)
    refused(config_of("llama", tmp_path), "exported: .*k_proj.weight is not what was trained")


def test_adapter_merged_at_another_scale_is_refused(tmp_path, monkeypatch):
    merge = export.merge_adapter
    monkeypatch.setattr(export, "merge_adapter", lambda parts, scale: merge(parts, 2 * scale))
    lora = LoraKnobs(rank=4)
    refused(config_of("llama", tmp_path), "exported: .*proj.weight is not what", lora=lora)


def test_adapter_of_fused_experts_is_refused_by_its_field(tmp_path):
    lora = LoraKnobs(rank=4, target_modules=".*(experts|q_proj).*")
    refused(config_of("mixtral", tmp_path), r"^training\.lora\.target_modules: ", lora=lora)


def test_files_whose_tensors_have_other_names_are_refused(tmp_path):
    folder = config_of("llama", tmp_path)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SMALL))
    state = {name: one.clone() for name, one in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    check(folder)
    renamed = {name.replace("q_proj", "query"): one for name, one in state.items()}
    save_file(renamed, tmp_path / "model.safetensors")
    refused(folder, "its files have no tensor model.layers.N.self_attn.q_proj.weight")


def test_quantised_weights_are_refused(tmp_path):
    folder = config_of("llama", tmp_path, quantization_config={"quant_method": "fp8"})
    refused(folder, "student.model: its weights are quantised .*fp8")


def test_family_without_flex_attention_is_refused_where_the_student_has_gpus(tmp_path):
    folder = config_of("olmoe", tmp_path)
    options = {"shared_prompt": True, "trains_router": True, "lora": LoraKnobs()}
    check_student("student.model", folder, on_gpu=False, **options)
    with pytest.raises(UserError, match=r"olmoe.*flex_attention.*; set training.shared_prompt: f"):
        check_student("student.model", folder, on_gpu=True, **options)
