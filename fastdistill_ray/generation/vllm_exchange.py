"""What vLLM's worker processes do when an engine exchanges its weights; imported only there."""

from typing import Any

from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.platforms import current_platform


class Exchange:
    """Mixed into vLLM's workers, by their argument `worker_extension_cls`."""

    reload_weights: Any
    get_model: Any

    def exchange_weights(self, folder: str) -> None:
        """Loads weights of a model of the same architecture in place."""
        self.reload_weights(weights_path=folder)
        if not current_platform.is_cpu():
            return
        # There a head multiplies with a packed copy of its weights. One that is tied to the
        # embedding is not loaded by itself, and vLLM leaves its copy as it was.
        for module in self.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
