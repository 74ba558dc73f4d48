"""Who writes completions and how they are drawn: engines, endpoints, sampling. No Ray, no vLLM."""

import math
import random
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Discriminator, Field, Tag

from fastdistill_ray.endpoints.knobs import ServerKnobs
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.storage.place import Place
from fastdistill_ray.verifiers.knobs import VerifierKnobs

SEED_STRIDE = 1024  # completion k of a problem is drawn with the problem's seed + k
LOOP_TOKENS = (8, 64)  # shortest and longest text that counts as a loop when it repeats


def _not_once(repeats: int) -> int:
    if repeats == 1:
        raise ValueError("once is no loop; set 2 or more, or 0")
    return repeats


LoopRepeats = Annotated[
    int,
    AfterValidator(_not_once),
    Field(
        ge=0,
        description=f"A completion that says the same {LOOP_TOKENS[0]} to {LOOP_TOKENS[1]} tokens "
        "this often in a row is ended there, as one that is cut; 0: never.",
    ),
]
ENGINE_TAG, ENDPOINT_TAG = "an engine", "an endpoint"


class EngineKnobs(Knobs):
    """Arguments of a vLLM engine; names are vLLM's own."""

    FREE = frozenset(
        {
            "max_num_seqs",
            "tensor_parallel_size",
            "pipeline_parallel_size",
            "enforce_eager",
            "gpu_memory_utilization",
            "cpu_kv_cache_gib",
        }
    )

    kind: Literal["vllm", "scripted"] = Field(
        default="vllm",
        description="scripted: no model, answers made from the references (for tests).",
    )
    max_model_len: int = Field(
        default=4096, gt=0, description="Most tokens of prompt and completion."
    )
    max_num_seqs: int = Field(default=256, gt=0, description="Most sequences decoded at once.")
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs one layer is split over.")
    pipeline_parallel_size: int = Field(
        default=1,
        ge=1,
        description="Parts the layers are dealt to; an actor has GPUs for all parts.",
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="Precision of weights and activations."
    )
    enforce_eager: bool = Field(default=False, description="Neither CUDA graphs nor torch.compile.")
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Share of a GPU's memory that an engine takes."
    )
    cpu_kv_cache_gib: int = Field(
        default=2, ge=1, description="KV cache of an engine without a GPU."
    )
    extra: dict[str, Any] = Field(default={}, description="Any further argument of vLLM's engine.")

    @property
    def num_devices(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size


class EndpointKnobs(ServerKnobs):
    """A server that speaks OpenAI's chat completions; `teacher.model` is its name for the model."""

    kind: Literal["endpoint"] = Field(
        default="endpoint", description="An OpenAI-compatible server writes."
    )
    send_seed: bool = Field(
        default=True,
        description="Each request carries a seed; false for servers that refuse the field.",
    )


def _engine_tag(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", "")
    return ENDPOINT_TAG if kind == "endpoint" else ENGINE_TAG


class TeacherKnobs(Knobs):
    FREE = frozenset({"model"})

    model: str = Field(
        min_length=1,
        description="Hub id, folder or .gguf file; behind an endpoint, what its server calls it.",
    )
    prompt: PromptKnobs = PromptKnobs()
    engine: Annotated[
        Annotated[EngineKnobs, Tag(ENGINE_TAG)] | Annotated[EndpointKnobs, Tag(ENDPOINT_TAG)],
        Discriminator(_engine_tag),
    ] = EngineKnobs()
    share: float = Field(
        default=1.0,
        gt=0,
        description="Share of the problems, relative to the other teachers that take them.",
    )
    tasks: list[str] = Field(
        default=[], description="Takes only problems of these tasks; empty: of every task."
    )

    prompts: list[PromptKnobs] = Field(
        default=[],
        description="Further prompts: the completions of a problem are divided among `prompt` and "
        "these, so that a vote is on answers to several.",
    )
    shot_orders: int = Field(
        default=1,
        ge=1,
        description="Orders of each prompt's worked examples, among which the completions of a "
        "problem are divided; the first is that of the recipe, the others are seeded.",
    )

    @property
    def all_prompts(self) -> list[PromptKnobs]:
        """`prompt` as it is, then the others in the order in which completions are drawn."""
        return [one for own in (self.prompt, *self.prompts) for one in self._in_orders(own)]

    def _in_orders(self, prompt: PromptKnobs) -> list[PromptKnobs]:
        found, seed = [prompt], 0
        most = min(self.shot_orders, math.factorial(len(prompt.shots)))
        while len(found) < most:
            shots = list(prompt.shots)
            random.Random(seed).shuffle(shots)
            other, seed = prompt.model_copy(update={"shots": shots}), seed + 1
            found += [other] if other not in found else []
        return found

    @property
    def is_remote(self) -> bool:
        return self.endpoint is not None

    @property
    def endpoint(self) -> EndpointKnobs | None:
        return self.engine if isinstance(self.engine, EndpointKnobs) else None


class SamplingKnobs(Knobs):
    FREE = frozenset({"max_set_aside"})

    n: int = Field(default=8, ge=1, le=SEED_STRIDE, description="Completions per problem.")
    max_n: int = Field(
        default=0,
        ge=0,
        le=SEED_STRIDE,
        description="While fewer than `enough` are correct, n more are drawn, up to this many; "
        "0: n, whatever they are.",
    )
    enough: int = Field(
        default=1, ge=1, description="Correct completions that end a problem, with max_n."
    )
    temperature: float = Field(default=0.9, ge=0, description="Sampling temperature; 0: greedy.")
    temperatures: list[Annotated[float, Field(ge=0)]] = Field(
        default=[],
        description="Completion k is drawn at entry k modulo their number, instead of "
        "`temperature`; empty: all at `temperature`.",
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Nucleus sampling: draw from the likeliest tokens of this total probability.",
    )
    top_k: int = Field(default=0, ge=0, description="Most likely tokens drawn from; 0: all.")
    min_p: float = Field(
        default=0.0, ge=0, le=1, description="Least probability, relative to the likeliest token's."
    )
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        description="Texts that end a completion; they are not part of it, but for an </answer> "
        "that closes an answer block.",
    )
    max_new_tokens: int = Field(default=2048, gt=0, description="Most tokens of a completion.")
    loop_repeats: LoopRepeats = 0
    max_set_aside: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Share of the problems that may be set aside because asking them fails again "
        "and again; more ends the stage.",
    )
    seed: int = Field(default=0, description="With the problem's id it seeds each request.")
    logprobs: int = Field(
        default=0,
        ge=0,
        le=20,
        description="Stored for each token: log-probabilities (at temperature 1) of it and of this "
        "many likeliest ones; 0: none.",
    )

    @property
    def most(self) -> int:
        """Completions a problem can get."""
        return self.max_n or self.n

    def temperature_of(self, k: int) -> float:
        values = self.temperatures or [self.temperature]
        return values[k % len(values)]


def sampling_errors(sampling: SamplingKnobs) -> list[str]:
    """Settings that cannot be had together."""
    n, most, errors = sampling.n, sampling.most, []
    greedy = sum(sampling.temperature_of(k) == 0 for k in range(most))
    if greedy > 1:
        name = "temperatures" if sampling.temperatures else "temperature"
        errors.append(f"sampling.{name}: 0 makes the n completions of a problem identical")
    if sampling.max_n and sampling.max_n < n:
        errors.append(f"sampling.max_n: {sampling.max_n} is less than n = {n}; 0 stands for n")
    if sampling.enough > 1 and not sampling.max_n:
        errors.append("sampling.enough: counts only with sampling.max_n; set that too")
    if sampling.enough > most:
        errors.append(f"sampling.enough: {sampling.enough} correct of {most} cannot be")
    if sampling.stop and sampling.logprobs:
        errors.append(
            "sampling.stop: it cuts inside a token, so log-probabilities would not match the "
            "text; set sampling.logprobs: 0 or sampling.stop: []"
        )
    return errors


def teacher_errors(name: str, teacher: TeacherKnobs, sampling: SamplingKnobs) -> list[str]:
    """What a teacher of the recipe's section `name` cannot do."""
    engine, errors = teacher.engine, _prompt_errors(name, teacher, sampling)
    if isinstance(engine, EndpointKnobs):
        if sampling.logprobs:
            errors.append(
                f"sampling.logprobs: {name} is an endpoint, which gives no token ids; set 0"
            )
        if sampling.loop_repeats:
            errors.append(
                f"sampling.loop_repeats: {name} is an endpoint, which looks for no loops; set 0"
            )
    elif sampling.max_new_tokens >= engine.max_model_len:
        errors.append(
            f"sampling.max_new_tokens: {sampling.max_new_tokens} leaves no room for the prompt in "
            f"{name}.engine.max_model_len = {engine.max_model_len}"
        )
    return errors


def _prompt_errors(name: str, teacher: TeacherKnobs, sampling: SamplingKnobs) -> list[str]:
    """Of a teacher that is asked by several prompts."""
    own, errors = teacher.prompt, []
    for place, other in enumerate(teacher.prompts):
        if (own.template, own.template_args) != (other.template, other.template_args):
            errors.append(
                f"{name}.prompts.{place}.template: a problem's completions are of one chat "
                f"template; set that of {name}.prompt"
            )
    for place, one in enumerate([own, *teacher.prompts]):
        where = f"{name}.prompt" if not place else f"{name}.prompts.{place - 1}"
        if teacher.shot_orders > math.factorial(len(one.shots)):
            errors.append(
                f"{name}.shot_orders: {len(one.shots)} worked examples of {where} have fewer than "
                f"{teacher.shot_orders} orders"
            )
    number = len(teacher.all_prompts)
    if number > sampling.n:
        errors.append(
            f"sampling.n: {sampling.n} completions cannot be of {number} prompts ({name}.prompts, "
            "shot_orders); draw more"
        )
    if number > 1 and sampling.logprobs:
        errors.append(
            f"sampling.logprobs: those of several prompts ({name}.prompts, shot_orders) cannot be "
            "told apart; set 0"
        )
    return errors


def pool_error(pool: str, engine: EngineKnobs | EndpointKnobs, workers: int, gpus: int) -> str:
    """Why the pool's actors cannot hold the engine; "" when they can."""
    if isinstance(engine, EndpointKnobs):
        if workers > 1:
            return f"{pool}.workers: one actor asks an endpoint; raise its max_concurrency instead"
        return f"{pool}.gpus: an endpoint's actor uses none, set 0" if gpus else ""
    if engine.num_devices == max(gpus, 1):
        return ""
    return (
        f"{pool}.gpus: {gpus} GPUs per actor, but the engine's tensor_parallel_size x "
        f"pipeline_parallel_size is {engine.tensor_parallel_size} x "
        f"{engine.pipeline_parallel_size}; set them equal"
    )


class EngineSpec(NamedTuple):
    """What an engine's actor loads and how it samples."""

    model: str  # reference; each actor fetches it for its own node
    engine: EngineKnobs | EndpointKnobs
    sampling: SamplingKnobs
    verifier: VerifierKnobs  # judges completions while sampling.max_n draws more
    paid: Place | None = None  # folder in which an endpoint notes what it is paid
