"""Engines whose weights do not fit are refused with the numbers and the field to change."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.jobs import tiny_recipe
from support.models import make_tiny_model

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import EngineKnobs
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.run.memory import Loaded, check_engine, loaded, memory_plans
from fastdistill_ray.storage.weights import loaded_bytes

GIB = 2**30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(str(tmp_path_factory.mktemp("model")))


def test_loaded_bytes_are_those_of_the_engines_precision_and_other_formats_as_stored(tmp_path):
    """100 floats of 4 bytes and 10 of 2 are converted; 30 bytes of fp8 and 7 of int8 are not."""
    tensors = {
        "a": torch.zeros(100),
        "b": torch.zeros(10, dtype=torch.bfloat16),
        "c": torch.zeros(30, dtype=torch.float8_e4m3fn),
        "d": torch.zeros(7, dtype=torch.int8),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert loaded_bytes(tmp_path, "bfloat16") == 110 * 2 + 37
    assert loaded_bytes(tmp_path, "float32") == 110 * 4 + 37


@pytest.mark.parametrize(
    ("gpus", "tensor_parallel", "share", "is_refused"),
    [(1, 1, 1.01, False), (1, 1, 0.99, True), (4, 4, 0.26, False), (4, 4, 0.24, True)],
)
def test_teacher_of_four_gpus_does_not_fit_one(model, gpus, tensor_parallel, share, is_refused):
    """`share` of the weights is what one GPU's memory holds at its utilization."""
    engine = EngineKnobs(tensor_parallel_size=tensor_parallel, gpu_memory_utilization=0.5)
    weights = loaded_bytes(Path(model), engine.dtype)
    one = Loaded(
        *("compare.baselines teacher", model, engine, "evaluation.engine", "pools.evaluation"),
        PoolKnobs(gpus=gpus),
    )
    memory = share * weights / 0.5
    if not is_refused:
        return check_engine(one, memory)
    with pytest.raises(UserError) as error:
        check_engine(one, memory)
    for words in (
        f"pools.evaluation: the weights of compare.baselines teacher {model}",
        f"an engine has {tensor_parallel} x",
        "raise evaluation.engine.tensor_parallel_size and pools.evaluation.gpus",
    ):
        assert words in str(error.value)


def test_engine_that_quantizes_as_it_loads_is_not_held_to_its_files(model):
    engine = EngineKnobs(extra={"quantization": "fp8"})
    place = ("teacher.model", model, engine, "teacher.engine", "pools.teacher")
    check_engine(Loaded(*place, PoolKnobs(gpus=1)), 1.0)


def test_engine_on_the_cpu_needs_its_cache_beside_the_weights(model):
    engine = EngineKnobs(cpu_kv_cache_gib=2)
    one = Loaded("teacher.model", model, engine, "teacher.engine", "pools.teacher", PoolKnobs())
    weights = loaded_bytes(Path(model), engine.dtype)
    check_engine(one, 2 * GIB + weights)
    with pytest.raises(UserError, match=r"pools.teacher: .* 2 of it for the cache; lower pools"):
        check_engine(one, 2 * GIB + weights - 1)


def test_every_model_that_an_engine_holds_is_looked_at_once(model):
    vllm = {"kind": "vllm", "max_model_len": 1024}
    served = {"kind": "endpoint", "url": "http://host/v1"}
    recipe = Recipe.model_validate(
        tiny_recipe(
            model,
            teacher={"model": "a", "engine": vllm},
            teachers=[{"model": "b", "engine": vllm}, {"model": "c", "engine": served}],
            student={"model": "s"},
            evaluation={"engine": vllm},
            compare={"students": [{"kind": "sft", "model": "t"}]},
        )
    )
    found = [(one.field, one.model, one.pool_name) for one in loaded(recipe)]
    assert found == [
        ("teacher.model", "a", "pools.teacher"),
        ("teachers.0.model", "b", "pools.teacher"),
        ("student.model", "s", "pools.evaluation"),
        ("compare.baselines teacher", "a", "pools.evaluation"),
        ("compare.students.0.model", "t", "pools.evaluation"),
    ]


def test_plan_of_a_model_is_that_of_the_objective_that_takes_most(model, tmp_path):
    other = make_tiny_model(str(tmp_path / "other"), seed=1)
    lit = {"kind": "lit", "layers": [[0, 0], [1, 1]]}

    def plans_of(*kinds: dict):
        first, *others = kinds
        recipe = Recipe.model_validate(
            tiny_recipe(
                model, teacher={"model": other}, objective=first, compare={"students": others}
            )
        )
        return memory_plans(recipe, lambda name: None if name == "org/none" else name)

    sft, kl, fed = (plans_of(one)[model] for one in ({"kind": "sft"}, {"kind": "forward_kl"}, lit))
    assert sft.total < kl.total < fed.total
    assert sft.frozen == 0 < kl.frozen < fed.frozen and kl.activations < fed.activations
    for kinds in ((lit, {"kind": "sft"}), ({"kind": "forward_kl"}, {"kind": "sft"}, lit)):
        assert plans_of(*kinds) == {model: fed}
    elsewhere = {"kind": "sft", "model": "org/none"}
    assert plans_of({"kind": "sft"}, elsewhere) == {model: sft, "org/none": None}
