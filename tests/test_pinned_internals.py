"""What private or undocumented interfaces of ray, torch, transformers and vllm look like.

The package relies on every one of them; a version bump that moves one shows here, in seconds and
by name, before it shows as a wrong number or a stage that stands still.
"""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)  # vLLM's first import

# (who relies on it, module, name in it, its signature)
SIGNATURES = [
    (
        *("cluster.dashboard", "ray.job_submission", "JobSubmissionClient._do_request"),
        "(self, method, endpoint, *, data=None, json_data=None, **kwargs)",
    ),
    (
        *("cluster.joining", "ray._private.services", "canonicalize_bootstrap_address"),
        "(addr, temp_dir=None)",
    ),
    *(
        ("cluster.queues", "ray.data._internal.execution.backpressure_policy", name, signature)
        for name, signature in (
            ("BackpressurePolicy.max_task_output_bytes_to_read", "(self, op)"),
            ("BackpressurePolicy.__init__", "(self, data_context, topology, resource_manager)"),
        )
    ),
    (
        *("cluster.objects", "ray._private.internal_api", "node_stats"),
        "(node_manager_address=None, node_manager_port=None, include_memory_info=True)",
    ),
    (
        *("cluster.deaths", "ray._private.state", "GlobalState._connect_and_get_accessor"),
        "(self)",
    ),
    (
        *("training.job", "ray.train", "UserCallback.after_exception"),
        "(self, run_context, worker_exceptions)",
    ),
    (
        *("training.job", "ray.train.v2._internal.constants", "get_env_vars_to_propagate"),
        "()",
    ),
    (
        *("training.sharding", "torch.distributed.fsdp._fully_shard._fsdp_param"),
        *("FSDPParam.accumulate_unsharded_grad_if_needed", "(self)"),
    ),
    ("training.sharding", "torch.distributed.fsdp", "FSDPModule._get_fsdp_state", "(self)"),
    *(
        ("training.loading", module, name, signature)
        for module, name, signature in (
            (
                *("transformers.core_model_loading", "rename_source_key"),
                "(source_key, weight_renamings, weight_converters, base_model_prefix=None, "
                "meta_state_dict=None, reverse=False)",
            ),
            (
                *("transformers.core_model_loading", "WeightConverter.add_tensor"),
                "(self, target_key, source_key, source_pattern, future)",
            ),
            (
                *("transformers.core_model_loading", "WeightConverter.convert"),
                "(self, layer_name, model=None, config=None, hf_quantizer=None, loading_info=None)",
            ),
            (
                *("transformers.conversion_mapping", "get_model_conversion_mapping"),
                "(model, key_mapping=None, hf_quantizer=None, add_legacy=True)",
            ),
            (
                *("transformers", "PreTrainedModel._move_missing_keys_from_meta_to_device"),
                "(self, missing_keys, device_map, device_mesh, hf_quantizer)",
            ),
            ("transformers", "PreTrainedModel._initialize_missing_keys", "(self, is_quantized)"),
            (
                *("transformers", "PreTrainedModel.tie_weights"),
                "(self, missing_keys=None, recompute_mapping=True)",
            ),
            (
                *("torch.distributed.tensor._utils", "compute_local_shape_and_global_offset"),
                "(global_shape, mesh, placements, skip_offset=False)",
            ),
        )
    ),
    (
        *("generation.vllm_executor", "vllm.v1.executor.multiproc_executor"),
        *("MultiprocExecutor._init_executor", "(self)"),
    ),
    (
        *("generation.vllm_executor", "vllm.distributed.device_communicators.shm_broadcast"),
        *("SpinCondition.wait", "(self, timeout_ms=None)"),
    ),
    (
        *("generation.vllm_exchange", "vllm.model_executor.layers.vocab_parallel_embedding"),
        *("UnquantizedEmbeddingMethod.process_weights_after_loading", "(self, layer)"),
    ),
    (
        *("generation.vllm_engine", "vllm.v1.engine.async_llm", "AsyncLLM.reset_prefix_cache"),
        "(self, reset_running_requests=False, reset_connector=False)",
    ),
    (
        *("generation.vllm_engine", "vllm.v1.engine.async_llm", "AsyncLLM.collective_rpc"),
        "(self, method, timeout=None, args=(), kwargs=None)",
    ),
    (
        *("generation.vllm_engine", "vllm.sampling_params", "RepetitionDetectionParams"),
        "(max_pattern_size=0, min_pattern_size=0, min_count=0)",
    ),
]
# (who relies on it, module, class or function in it, words its source must hold)
SOURCES = [
    (
        *("cluster.queues", "ray.data._internal.execution.backpressure_policy"),
        *("BackpressurePolicy.__init__", ["self._data_context = ", "self._topology = "]),
    ),
    (
        *("cluster.queues", "ray.data._internal.execution.streaming_executor_state", "OpState"),
        ["self.output_queue", "output_queue.num_blocks"],
    ),
    (
        *("cluster.queues", "ray.data._internal.execution.operators.map_operator", "MapOperator"),
        ["self._output_blocks_stats: List"],
    ),
    (
        *("training.job", "ray.train.v2._internal.execution.failure_handling.factory"),
        *("create_failure_policy", ["return DefaultFailurePolicy("]),
    ),
    (
        *("training.job", "ray.train.v2._internal.callbacks.user_callback", "UserCallbackHandler"),
        ["user_callback.after_exception("],
    ),
    (
        *("training.sharding", "torch.distributed.fsdp._fully_shard._fsdp_param"),
        *("FSDPParam.accumulate_unsharded_grad_if_needed",),
        ["self.unsharded_accumulated_grad += self.unsharded_param.grad"],
    ),
    (
        *("training.sharding", "torch.distributed.fsdp._fully_shard._fsdp_param_group"),
        *("FSDPParamGroup", ["fsdp_param.accumulate_unsharded_grad_if_needed()"]),
    ),
    (
        *("training.sharding", "torch.distributed.fsdp._fully_shard._fsdp_state", "FSDPState"),
        ["self._fsdp_param_groups"],
    ),
    (
        *("training.attention", "transformers", "LlamaForCausalLM.forward"),
        ["self.model(", "**kwargs"],
    ),
    (
        *("cluster.dashboard", "ray.dashboard.modules.dashboard_sdk"),
        *("SubmissionClient._do_request", ["requests.request(", "**kwargs,"]),
    ),
    (
        *("cluster.running", "ray._private.services", "start_api_server"),
        ['dashboard_dir = "dashboard"', '(RAY_PATH, dashboard_dir, "dashboard.py")'],
    ),
    (
        *("generation.vllm_executor", "vllm.v1.executor.multiproc_executor"),
        *("MultiprocExecutor._init_executor", ["self.response_mqs"]),
    ),
    (
        *("generation.vllm_executor", "vllm.distributed.device_communicators.shm_broadcast"),
        *("MessageQueue", ["self._spin_condition = SpinCondition("]),
    ),
    (
        *("generation.vllm_executor", "vllm.distributed.device_communicators.shm_broadcast"),
        *("SpinCondition", ["self.last_read = time.monotonic()", "self.busy_loop_s = "]),
    ),
    (
        *("generation.vllm_exchange", "vllm.model_executor.layers.vocab_parallel_embedding"),
        *("VocabParallelEmbedding", ["self.quant_method"]),
    ),
    ("generation.vllm_exchange", "vllm.v1.worker.gpu_worker", "Worker", ["def reload_weights("]),
    ("generation.vllm_exchange", "vllm.v1.worker.worker_base", "WorkerBase", ["def get_model("]),
    (
        *("generation.vllm_engine", "vllm.logprobs", "FlatLogprobs"),
        ["token_ids: list[int]", "logprobs: list[float]"],
    ),
    ("generation.vllm_engine", "vllm.v1.engine.exceptions", "EngineDeadError", ["class"]),
]


def find(module: str, name: str) -> Any:
    thing: Any = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


def bare(signature: inspect.Signature) -> str:
    """Without annotations."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters))


@pytest.mark.parametrize(
    ("user", "module", "name", "signature"), SIGNATURES, ids=[row[2] for row in SIGNATURES]
)
def test_signature_is_the_one_relied_on(user: str, module: str, name: str, signature: str) -> None:
    assert bare(inspect.signature(find(module, name))) == signature, f"{user} relies on it"


@pytest.mark.parametrize(
    ("user", "module", "name", "words"),
    SOURCES,
    ids=[f"{row[2]}-{row[3][0]}" for row in SOURCES],
)
def test_source_holds_what_is_relied_on(
    user: str, module: str, name: str, words: list[str]
) -> None:
    source = inspect.getsource(find(module, name))
    assert [word for word in words if word not in source] == [], f"{user} relies on it"


def test_ray_hands_the_drivers_variables_to_training() -> None:
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    from fastdistill_ray.training.job import CONTROLLER_ENVIRONMENT

    assert set(CONTROLLER_ENVIRONMENT) <= ENV_VARS_TO_PROPAGATE


def test_ray_brings_an_allocator_and_the_files_and_names_that_are_read() -> None:
    import ray
    from ray._common.ray_option_utils import task_options
    from ray._private.ray_constants import RAY_WORKER_NICENESS
    from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

    folder = Path(ray.__file__).parent
    assert (folder / "core/libjemalloc.so").exists(), "training.job"
    assert "_generator_backpressure_num_objects" in task_options, "generation.completions"
    assert RAY_WORKER_NICENESS == "RAY_worker_niceness", "cluster.head"
    assert CHECKPOINT_MANAGER_SNAPSHOT_FILENAME == "checkpoint_manager_snapshot.json", "test_job"
    job_head = (folder / "dashboard/modules/job/job_head.py").read_text(encoding="utf-8")
    assert "No available agent" in job_head, "run.submission"
    manager = (folder / "dashboard/modules/job/job_manager.py").read_text(encoding="utf-8")
    assert "already exists" in manager, "run.submission"
    dataset = (folder / "data/dataset.py").read_text(encoding="utf-8")
    assert "`ray_remote_args` is deprecated" in dataset, "run.driver"


def test_torch_has_the_switches_that_training_sets() -> None:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    assert torch._dynamo.config.recompile_limit == 8, "training.sharding"
    assert callable(torch._C._dynamo.eval_frame._set_lru_cache), "training.sharding"
    assert "allow_non_fake_inputs" in inspect.signature(FakeTensorMode).parameters, "memory"
    assert torch.zeros(1).untyped_storage()._cdata, "training.memory"


def test_transformers_models_say_their_attention_and_their_blocks() -> None:
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    )
    assert list(model._no_split_modules) == ["LlamaDecoderLayer"], "training.student"
    model.config._attn_implementation = "eager"
    assert model.model.layers[0].self_attn.config._attn_implementation == "eager", "packing_check"
    assert model.get_decoder() is model.model, "training.student"
    assert callable(AttentionInterface.register), "training.attention"
