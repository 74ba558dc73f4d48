"""The recipe: one frozen pydantic tree from YAML and `--section.field=value` overrides.

A default lives on its field and nowhere else. Needs no torch, Ray or vLLM.
"""

import difflib
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from fastdistill_ray.advantages import AdvantageKnobs, SelectionKnobs
from fastdistill_ray.knobs import Knobs
from fastdistill_ray.lineup import NAME, Baseline, ComparedModel, CompareKnobs, Student
from fastdistill_ray.objectives import Objective
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.rewards import SCORES, RewardKnobs
from fastdistill_ray.tasks import TaskKnobs


class EngineKnobs(Knobs):
    """Arguments of a vLLM engine; names are vLLM's own."""

    kind: Literal["vllm", "scripted"] = Field(
        "vllm", description="scripted: no model, answers made from the references (for tests)."
    )
    max_model_len: int = Field(4096, gt=0, description="Tokens of prompt and completion.")
    max_num_seqs: int = Field(256, gt=0, description="Sequences decoded at once.")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs one actor's model is split over.")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="Of weights and activations."
    )
    enforce_eager: bool = Field(False, description="No CUDA graphs, no torch.compile.")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory.")
    cpu_kv_cache_gib: int = Field(2, ge=1, description="KV cache of an engine without a GPU.")
    extra: dict[str, Any] = Field({}, description="Any further argument of vLLM's engine.")


class TeacherKnobs(Knobs):
    model: str = Field(min_length=1, description="Hub id, folder or .gguf file.")
    prompt: PromptKnobs = PromptKnobs()
    engine: EngineKnobs = EngineKnobs()


class StudentKnobs(Knobs):
    model: str = Field(min_length=1, description="Hub id, folder or .gguf file.")
    prompt: PromptKnobs = PromptKnobs()


class SamplingKnobs(Knobs):
    n: int = Field(8, ge=1, description="Completions per problem.")
    temperature: float = Field(0.9, ge=0, description="0: greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus.")
    max_new_tokens: int = Field(2048, gt=0, description="Longest completion.")
    seed: int = Field(0, description="With the problem's id it seeds each request.")


class OptimizerKnobs(Knobs):
    learning_rate: float = Field(5e-6, gt=0, description="Peak of the schedule.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, on matrices only.")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's.")
    beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's.")
    eps: float = Field(1e-8, gt=0, description="AdamW's.")
    max_grad_norm: float = Field(0.5, gt=0, description="Clip of the global gradient norm.")
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="Share of steps of linear warm-up.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="After warm-up, down to 0 (constant: none)."
    )


class LoraKnobs(Knobs):
    rank: int = Field(0, ge=0, description="0: full fine-tuning.")
    alpha: float = Field(32.0, gt=0, description="Scale is alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Of the adapter's input.")
    target_modules: str = Field("all-linear", description="peft's target_modules.")


class TrainingKnobs(Knobs):
    epochs: int = Field(4, ge=1, description="Passes over the kept groups.")
    groups_per_step: int = Field(16, ge=1, description="Groups of one optimizer update, all ranks.")
    max_steps: int | None = Field(None, ge=1, description="Stop there; none: epochs decide.")
    overlap: bool = Field(False, description="Train while the teacher still writes.")
    max_seq_len: int = Field(
        4096, gt=0, description="Prompt and completion; a longer completion leaves its group."
    )
    micro_batch_tokens: int = Field(8192, gt=0, description="Tokens of one forward, per rank.")
    shared_prompt: bool = Field(True, description="Compute a group's prompt once.")
    mask_prompt: bool = Field(True, description="No loss on prompt tokens.")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="Of compute; weights are fp32.")
    activation_checkpointing: bool = Field(False, description="Recompute each block in backward.")
    lora: LoraKnobs = LoraKnobs()
    checkpoint_every: int = Field(100, ge=1, description="Steps between checkpoints.")
    max_failures: int = Field(3, ge=0, description="Restarts of the workers before giving up.")
    seed: int = Field(0, description="Of the order of groups.")


class PoolKnobs(Knobs):
    workers: int = Field(1, ge=1, description="Actors or ranks.")
    cpus: float = Field(1.0, ge=0, description="CPUs of each.")
    gpus: int = Field(0, ge=0, description="GPUs of each.")
    memory_gib: float = Field(0.0, ge=0, description="Memory reserved for each; 0: not counted.")


class PoolsKnobs(Knobs):
    teacher: PoolKnobs = PoolKnobs()
    judges: PoolKnobs = PoolKnobs(cpus=0.5)
    student: PoolKnobs = PoolKnobs()
    evaluation: PoolKnobs = PoolKnobs()
    autoscaling: bool = Field(
        False, description="The cluster adds nodes on demand: pools may exceed what is there now."
    )
    gpu_hour_price: float = Field(0.0, ge=0, description="Money, for the report; 0: hours only.")
    cpu_hour_price: float = Field(0.0, ge=0, description="Money, for the report; 0: hours only.")


class EvaluationKnobs(Knobs):
    n: int = Field(1, ge=1, description="Completions per problem; more than 1 gives pass@k.")
    temperature: float = Field(0.0, ge=0, description="0: greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus.")
    max_new_tokens: int = Field(2048, gt=0, description="Longest completion.")
    seed: int = Field(0, description="Of sampling.")
    engine: EngineKnobs = EngineKnobs()


class Recipe(Knobs):
    name: str = Field(pattern=NAME, description="Names the run folder.")
    task: TaskKnobs
    teacher: TeacherKnobs
    student: StudentKnobs
    sampling: SamplingKnobs = SamplingKnobs()
    reward: RewardKnobs = RewardKnobs()
    advantage: AdvantageKnobs = AdvantageKnobs()
    selection: SelectionKnobs = SelectionKnobs()
    objective: Objective
    optimizer: OptimizerKnobs = OptimizerKnobs()
    training: TrainingKnobs = TrainingKnobs()
    pools: PoolsKnobs = PoolsKnobs()
    evaluation: EvaluationKnobs = EvaluationKnobs()
    compare: CompareKnobs = CompareKnobs()

    @model_validator(mode="after")
    def _check_combinations(self) -> "Recipe":
        for problem in combination_errors(self):
            raise ValueError(problem)
        return self


def students(recipe: Recipe) -> list[Student]:
    """Every student the recipe trains, its own first; the one place that derives them."""
    rates = recipe.compare.learning_rates or [recipe.optimizer.learning_rate]
    own, model = recipe.objective, recipe.student.model
    size = recipe.selection.group_size or recipe.sampling.n
    return [
        Student(own.kind, own, model, None, rates),
        *(
            Student(
                other.name or other.objective.kind,
                other.objective,
                other.model or model,
                other.group_size if other.group_size != size else None,
                rates,
            )
            for other in recipe.compare.students
        ),
    ]


def combination_errors(recipe: Recipe) -> list[str]:
    """Settings that are each valid and together impossible; each line names what to change."""
    sampling, training, compare = recipe.sampling, recipe.training, recipe.compare
    size = min(sampling.n, recipe.selection.group_size or sampling.n)
    errors = _lineup_errors(recipe, size)
    if size < recipe.selection.min_size:
        errors.append(
            f"selection.min_size: {recipe.selection.min_size} completions cannot be had from "
            f"groups of {size}; every group would be dropped"
        )
    if recipe.selection.min_correct > size:
        errors.append(f"selection.min_correct: {recipe.selection.min_correct} of {size} cannot be")
    if sampling.n > 1 and sampling.temperature == 0:
        errors.append("sampling.temperature: 0 makes the n completions of a problem identical")
    if not training.mask_prompt and training.shared_prompt:
        errors.append("training.mask_prompt: false needs training.shared_prompt: false")
    if bad := [epoch for epoch in compare.epochs if not 1 <= epoch <= training.epochs]:
        errors.append(f"compare.epochs: {bad} not within training.epochs = {training.epochs}")
    if (compare.learning_rates or compare.epochs) and recipe.task.num_validation == 0:
        errors.append("task.num_validation: choosing by compare.* needs validation problems")
    if training.overlap and compare.learning_rates:
        errors.append("training.overlap: true trains once; set compare.learning_rates: []")
    for name, tokens, engine in (
        ("sampling", sampling.max_new_tokens, recipe.teacher.engine),
        ("evaluation", recipe.evaluation.max_new_tokens, recipe.evaluation.engine),
    ):
        if tokens >= engine.max_model_len:
            errors.append(
                f"{name}.max_new_tokens: {tokens} leaves no room for the prompt in the engine's "
                f"max_model_len = {engine.max_model_len}"
            )
    for name, engine, pool in (
        ("teacher", recipe.teacher.engine, recipe.pools.teacher),
        ("evaluation", recipe.evaluation.engine, recipe.pools.evaluation),
    ):
        if engine.tensor_parallel_size > max(pool.gpus, 1):
            errors.append(
                f"pools.{name}.gpus: {pool.gpus} GPUs per actor are fewer than the engine's "
                f"tensor_parallel_size = {engine.tensor_parallel_size}"
            )
    if unknown := sorted(set(recipe.reward.weights) - set(SCORES)):
        errors.append(f"reward.weights: no score is named {unknown}; known: {', '.join(SCORES)}")
    return errors


def _lineup_errors(recipe: Recipe, size: int) -> list[str]:
    """Of the students and baselines; `size` is that of the recipe's groups."""
    errors, own = [], students(recipe)
    for place, student in enumerate(own):
        where = "sampling.n" if place == 0 else f"compare.students.{place - 1}.group_size"
        has = student.group_size or size
        if has > size:
            errors.append(f"{where}: {has} completions cannot be had from groups of {size}")
        if student.objective.min_completions > has:
            errors.append(
                f"{where}: {student.objective.kind} compares completions, n must be 2 or "
                f"more, is {has}"
            )
        if has < recipe.selection.min_size and place > 0:
            errors.append(f"{where}: {has} is below selection.min_size; every group would leave")
    words = [name for name in recipe.compare.baselines if isinstance(name, str)]
    others = [one.name for one in recipe.compare.baselines if isinstance(one, ComparedModel)]
    names = [*words, *others, *(student.name for student in own)]
    reserved = set(others) & set(get_args(Baseline))
    if repeated := sorted({name for name in names if names.count(name) > 1} | reserved):
        errors.append(
            f"compare: the name {repeated[0]} may appear once among baselines and students; give "
            "the other a name of its own"
        )
    return errors


def load_recipe(path: str, overrides: list[str]) -> Recipe:
    """YAML file plus `section.field=value` overrides -> Recipe; ValueError is one clear line."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"recipe {path}: no such file")
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"recipe {path}: expected sections such as 'task:' and 'teacher:'")
    for override in overrides:
        _apply_override(tree, override)
    return parse_recipe(tree, path)


def parse_recipe(tree: dict[str, Any], origin: str) -> Recipe:
    """A plain tree -> Recipe; unknown keys are told before missing ones."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"recipe {origin}: {_first_error(error)}") from error


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `load_recipe` of it gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.removeprefix("--").partition("=")
    if not separator or not key:
        raise ValueError(f"override {override!r}: expected --section.field=value")
    *sections, name = key.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ValueError(f"override {override!r}: {section} is not a section")
    try:
        node[name] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: {text!r} is not a YAML value") from error


def _first_error(error: ValidationError) -> str:
    order = {"extra_forbidden": 0, "missing": 2}
    first = min(error.errors(), key=lambda item: order.get(item["type"], 1))
    # Tags of discriminated unions are not part of the key the user wrote.
    tags = ("advdistill", "sft", "<word>", "<table>")
    where = ".".join(str(part) for part in first["loc"] if part not in tags)
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key{_suggestion(first['loc'])}"
    if first["type"] == "missing":
        return f"{where}: required, not given"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message} (got {first['input']!r})" if where else message


def _suggestion(loc: tuple[int | str, ...]) -> str:
    section: Any = Recipe
    for part in loc[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = field.annotation if field else None
    names = [
        field.alias or name for name, field in (getattr(section, "model_fields", {}) or {}).items()
    ]
    close = difflib.get_close_matches(str(loc[-1]), names, n=1)
    return f", did you mean {close[0]}?" if close else ""
