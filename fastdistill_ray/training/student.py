"""A causal language model -> log-probabilities of target tokens; logits exist one chunk at a time.

Backbone and head run inside one module's forward, so that FSDP2 gathers the head's weight and
tied weights stay one parameter. Legend: R rows of L tokens, K target tokens, D hidden, V
vocabulary of the tokenizer (a model's head is often padded beyond it).
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from fastdistill_ray.errors import UserError
from fastdistill_ray.models import load_config
from fastdistill_ray.objectives.contract import LAST, NOTHING, Outputs, Wanted
from fastdistill_ray.training.attention import (
    GROUPED,
    attention_arguments,
    packed_attention,
    register_grouped,
)
from fastdistill_ray.training.head import ChunkedLogprob, Readout, wide
from fastdistill_ray.training.knobs import LoraKnobs
from fastdistill_ray.training.loading import Weights, empty_model, fill
from fastdistill_ray.training.logit_map import logit_factor, softcap_of
from fastdistill_ray.training.packing import PADDING, Inputs
from fastdistill_ray.training.router import router_loss, trained_coefficient
from fastdistill_ray.training.taps import Vectors, fed, kept, kept_states

T = TypeVar("T")
SHARDED = "FSDP"  # what fully_shard puts before the name of a module's class
DROPOUT = "drop"  # is in every name of a rate: attention_dropout, resid_pdrop, layerdrop


class CausalModel(nn.Module):
    """A model whose hidden states at the targets and whose head are had apart."""

    def __init__(self, model: PreTrainedModel, vocab_size: int, adapter_scale: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.vocab_size = vocab_size
        self.logit_factor = 1.0  # of the head's logits, by the model's own forward
        self.adapter_scale = adapter_scale  # LoRA's alpha / rank; 0: no adapter
        self.router_coefficient = 0.0  # of the loss of its routers' choices; 0: there is none
        self.saves_on_host = False  # what its blocks keep for their backward pass
        self.bridge: nn.Linear | None = None  # to the width of the model it is compared with
        # A forward of its head, as FSDP takes it, in which anything can be made of the weights.
        self.head.give = lambda hidden, use: use(hidden)

    @property
    def head(self) -> Any:
        """A module with `weight` and `bias`."""
        return self.model.get_output_embeddings()

    def read(self, inputs: Inputs, wanted: Wanted = NOTHING) -> "Read":
        """The last states of the targets, and what else is wanted."""
        text = self.model.config.get_text_config()
        shown = {"output_router_logits": True} if self.router_coefficient else {}
        blocks = decoder_blocks(self) if wanted != NOTHING else []
        with kept(blocks, wanted, text) as (states, vectors), self._saving():
            found = self.model.get_decoder()(
                input_ids=inputs.input_ids,
                position_ids=inputs.position_ids,
                use_cache=False,
                **attention_arguments(inputs, text),
                **shown,
            )
        states[LAST] = found.last_hidden_state
        router = None
        if self.router_coefficient:
            is_token_N = (inputs.group != PADDING).flatten()
            router = router_loss(self.model, found.get("router_logits"), is_token_N)
        hidden = _at(inputs.sources, found.last_hidden_state)
        gathered = tuple(_at(inputs.sources, states[block]) for block in wanted.blocks)
        return Read(hidden, router, gathered, vectors, states if wanted.whole else {})

    def _saving(self) -> contextlib.AbstractContextManager[Any]:
        """Where what autograd keeps of a forward inside rests."""
        if not self.saves_on_host:
            return contextlib.nullcontext()
        return torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available())

    def at_head(self, hidden_KD: Tensor, use: Callable[[Readout], T]) -> T:
        """What `use` makes of these states and the head, whose weights are gathered for it."""

        def give(hidden_KD: Tensor) -> T:
            head, config = self.head, self.model.config
            readout = readout_of(
                hidden_KD, head, self.vocab_size, self.logit_factor, softcap_of(config)
            )
            return use(readout)

        return self.head.give(hidden_KD, give)

    def read_fed(
        self, inputs: Inputs, wanted: Sequence[int], given: Mapping[int, Tensor]
    ) -> tuple[Tensor, ...]:
        """[K, D] of each block that is wanted, with other states, [R, L, D], behind some blocks."""
        text, blocks = self.model.config.get_text_config(), decoder_blocks(self)
        with kept_states(blocks, wanted, text) as states, fed(blocks, given), self._saving():
            self.model.get_decoder()(
                input_ids=inputs.input_ids,
                position_ids=inputs.position_ids,
                use_cache=False,
                **attention_arguments(inputs, text),
            )
        return tuple(_at(inputs.sources, states[block]) for block in wanted)

    def logits_of_head(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The head's and the model's own, of the hidden states of the same tokens."""
        hidden = self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        own = self.model(input_ids=ids, use_cache=False).logits
        return self.head(hidden), own


def readout_of(
    hidden: Tensor, head: Any, vocab_size: int, logit_factor: float, softcap: float | None
) -> Readout:
    """[K, D] and a module with `weight` and `bias`, of whose rows the first `vocab_size` count."""
    weight, bias = head.weight, head.bias
    if len(weight) > vocab_size:  # the slice's backward copies the gradient once more
        weight = weight[:vocab_size]
        bias = None if bias is None else bias[:vocab_size]
    if logit_factor != 1.0:
        hidden = hidden * logit_factor
        bias = None if bias is None else bias * logit_factor
    return Readout(hidden, weight, bias, softcap)


class Student(CausalModel):
    def forward(
        self,
        inputs: Inputs,
        compare: Callable[[Readout, "Read"], "Compared"] | None = None,
        wanted: Wanted = NOTHING,
    ) -> Outputs:
        """`compare` is given what was read and the head, while its weights are at hand; the states
        of `wanted` stand beside what it says of another model's."""
        own = self.read(inputs, wanted)

        def use(readout: Readout) -> tuple[Tensor, Compared | None]:
            logprob = logprob_of(readout, inputs.labels)
            return logprob, compare(readout, own) if compare else None

        logprob, found = self.at_head(own.hidden_KD, use)
        outputs = Outputs(logprob, own.router)
        if found is None:
            return outputs
        return outputs._replace(
            divergence=found.divergence,
            picked=found.picked,
            rest=found.rest,
            likeliest=found.likeliest,
            others=found.others,
            top=found.top,
            frozen_logprob=found.frozen_logprob,
            taps=tuple(zip(map(self._bridged, found.own or own.states), found.states, strict=True)),
            relations=found.relations,
            spans=found.spans,
        )

    def _bridged(self, state_KD: Tensor) -> Tensor:
        """As comparing takes it: [K, D] -> [K, E], in float32 or wider."""
        return wide(state_KD if self.bridge is None else self.bridge(state_KD))

    def reference_logprob(self, inputs: Inputs) -> Tensor:
        """The same [K] from the model's own forward and full logits; plain layout only."""
        logits = self.model(
            input_ids=inputs.input_ids,
            attention_mask=(inputs.group != PADDING).long(),
            use_cache=False,
        ).logits
        logits = logits.flatten(0, 1)[inputs.sources, : self.vocab_size]
        return wide(logits).log_softmax(-1).gather(1, inputs.labels[:, None])[:, 0]


class Read(NamedTuple):
    """What a forward pass gives of the targets."""

    hidden_KD: Tensor  # that the head reads
    router: Tensor | None  # the loss of the routers' choices
    states: tuple[Tensor, ...]  # [K, D] of each block asked for, as it was computed
    vectors: list[Vectors]  # of the block whose relations are asked for
    whole: Mapping[int, Tensor]  # [R, L, D] of each block, where those are asked for


class Compared(NamedTuple):
    """The student beside what another model says of the same targets."""

    divergence: Tensor | None = None  # [K]
    states: tuple[Tensor, ...] = ()  # [K, E], of that model
    picked: Tensor | None = None  # [K, M], log-probabilities by the student of some ids
    likeliest: tuple[Tensor, Tensor] | None = None  # as `Outputs` has it
    others: Tensor | None = None  # as `Outputs` has it
    rest: Tensor | None = None  # [K], log-mass of all others
    frozen_logprob: Tensor | None = None  # [K], by that model of the targets
    top: tuple[Tensor, Tensor | None, Tensor] | None = None  # as `Outputs` has it
    vectors: Sequence[Vectors] = ()  # of that model, as `Read` has them
    whole: Mapping[int, Tensor] = MappingProxyType({})  # of that model, as `Read` has them
    own: tuple[Tensor, ...] = ()  # [K, D], in place of the student's states that it read
    relations: tuple[Tensor, ...] = ()  # [K] each
    spans: tuple[Tensor, ...] = ()  # [K] each, as `Outputs` has it


def _at(sources: Tensor, hidden: Tensor) -> Tensor:
    """[R, L, D] -> [K, D]; unlike that of indexing, its backward adds in the same order always."""
    return nn.functional.embedding(sources, hidden.flatten(0, 1))


def add_bridge(student: Student, width: int, seed: int) -> None:
    """A trainable matrix to states that wide, the same on every rank; no export has it."""
    own = student.model.config.get_text_config().hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student.bridge = nn.Linear(own, width, bias=False)


def logprob_of(readout: Readout, labels: Tensor) -> Tensor:
    """[K]"""
    *tensors, softcap = readout
    return ChunkedLogprob.apply(*tensors, labels, softcap)


def empty_student(
    folder: str,
    *,
    vocab_size: int,
    device: torch.device,
    shared_prompt: bool,
    trains_router: bool,
    lora: LoraKnobs,
) -> tuple[Student, Weights]:
    """For that device, in float32 and without dropout; with an adapter, only that trains. All but
    the adapter is on the meta device until `fill`; its logits' factor is then to be found."""
    register_grouped()
    config = without_dropout(load_config(folder))
    text = config.get_text_config()
    attention = plain_attention(config)
    if shared_prompt:
        attention = packed_attention(device)
    model, weights = with_attention(
        lambda name: empty_model(config, Path(folder), name), config.model_type, attention
    )
    scale = lora.alpha / lora.rank if lora.rank > 0 else 0.0
    student = Student(prepare_model(model, lora), min(vocab_size, text.vocab_size), scale)
    student.router_coefficient = trained_coefficient(config) if trains_router else 0.0
    return student.train(), weights


def load_student(
    folder: str,
    *,
    vocab_size: int,
    device: torch.device,
    shared_prompt: bool,
    trains_router: bool,
    lora: LoraKnobs,
) -> Student:
    """A whole one, on its device."""
    student, weights = empty_student(
        folder,
        vocab_size=vocab_size,
        device=device,
        shared_prompt=shared_prompt,
        trains_router=trains_router,
        lora=lora,
    )
    fill(student, weights, device)
    student.to(device)
    student.logit_factor = logit_factor(student, device)
    return student


def plain_attention(config: PreTrainedConfig) -> str:
    """Of transformers' own only "eager" has the soft cap of attention scores."""
    is_capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if is_capped else "sdpa"


def with_attention(build: Callable[[str], T], kind: str, attention: str) -> T:
    """`build` with that attention, or with "eager" where a family has not the one of transformers'
    own; UserError where it has not the one that packed groups need."""
    try:
        return build(attention)
    except (KeyError, ValueError) as error:
        if attention in (GROUPED, "flex_attention"):
            raise UserError(
                f"student {kind} cannot be given packed groups: {error}; set "
                "training.shared_prompt: false"
            ) from error
        if attention == "sdpa" and "attention implementation" in str(error):
            return build("eager")
        raise


def without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    """Every rate of dropout in it is 0, whatever the family calls it: some of them read the rate in
    forward, where no module shows it."""
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        for name, value in vars(part).items():
            if DROPOUT in name and isinstance(value, float):
                setattr(part, name, 0.0)
    return config


def prepare_model(model: PreTrainedModel, lora: LoraKnobs) -> PreTrainedModel:
    """No dropout but the adapter's; with an adapter, only that trains."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if lora.rank == 0:
        return model
    adapter = LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),  # a float is as good
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    draws = torch.get_rng_state()
    try:
        adapted = cast(PreTrainedModel, inject_adapter_in_model(adapter, model))
    except ValueError as error:
        raise UserError(f"training.lora.target_modules: {' '.join(str(error).split())}") from error
    for name, module in adapted.named_modules():
        if isinstance(module, BaseTunerLayer) and type(module.get_base_layer()) is not nn.Linear:
            raise UserError(
                f"training.lora.target_modules: {name} of {model.config.model_type} is no linear "
                "layer, as fused experts are not, and could not be merged into an export; name "
                "others, such as '.*(q_proj|k_proj|v_proj|o_proj)'"
            )
    if model.device.type == "meta":
        torch.set_rng_state(draws)
        _draw_adapter(adapted, lora.rank)
    return adapted


def _draw_adapter(model: PreTrainedModel, rank: int) -> None:
    """The values that peft drew, and dropped where it moved the adapter to the layer on meta."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            width_out, width_in = cast(nn.Linear, module.get_base_layer()).weight.shape
            module.lora_A["default"] = nn.Linear(width_in, rank, bias=False)
            module.lora_B["default"] = nn.Linear(rank, width_out, bias=False)
            module.reset_lora_parameters("default", True)


def decoder_blocks(student: CausalModel) -> list[nn.Module]:
    """The repeated parts of the model, which are sharded, compiled and recomputed one by one.

    transformers names their classes in the private `_no_split_modules`; without them a model would
    be gathered whole on every GPU and not be compiled, without a word.
    """
    names = set(getattr(student.model, "_no_split_modules", None) or ())
    blocks = [
        module
        for module in student.modules()
        if type(module).__name__.removeprefix(SHARDED) in names
    ]
    if not blocks:
        raise UserError(
            "transformers names no decoder blocks of model type "
            f"{student.model.config.model_type!r} (_no_split_modules: {sorted(names)}), so it "
            "cannot be sharded; take a model of another architecture, or another release of "
            "transformers"
        )
    return blocks


def own_ends(student: CausalModel) -> tuple[nn.Module, nn.Module] | None:
    """Embedding and head, where they are two."""
    embedding = student.model.get_input_embeddings()
    return None if student.head.weight is embedding.weight else (embedding, student.head)


def to_device(arrays: Any, device: torch.device) -> Any:
    """A NamedTuple of arrays as tensors; other fields stay."""
    return type(arrays)(
        *(
            torch.from_numpy(field).to(device) if isinstance(field, np.ndarray) else field
            for field in arrays
        )
    )
