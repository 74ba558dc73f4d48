"""The recipe: one frozen pydantic tree from YAML and `--section.field=value` overrides.

A default lives on its field and nowhere else. Needs no torch, Ray or vLLM.
"""

import difflib
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from fastdistill_ray.advantages import AdvantageKnobs, SelectionKnobs
from fastdistill_ray.knobs import Knobs, models_in
from fastdistill_ray.lineup import NAME, Baseline, ComparedModel, CompareKnobs, Student
from fastdistill_ray.objectives import Objective
from fastdistill_ray.prompts import PromptKnobs
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.scorer import weight_errors
from fastdistill_ray.tasks import TaskKnobs
from fastdistill_ray.teachers import (
    ENDPOINT_TAG,
    ENGINE_TAG,
    EngineKnobs,
    LoopRepeats,
    SamplingKnobs,
    TeacherKnobs,
    pool_error,
    sampling_errors,
    teacher_errors,
)
from fastdistill_ray.trackers import TrackingKnobs


class StudentKnobs(Knobs):
    model: str = Field(min_length=1, description="Hub id, folder or .gguf file.")
    prompt: PromptKnobs = PromptKnobs()


class OptimizerKnobs(Knobs):
    kind: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="adamw8bit: moments in 8 bits, by torchao (pip install torchao)."
    )
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


class ValidationKnobs(Knobs):
    """Groups of the store that are never trained, and what they decide."""

    share: float = Field(
        0.0, ge=0, le=0.5, description="Of the kept groups, held out; 0: no validation."
    )
    every: int = Field(400, ge=1, description="Steps between validations; the last step has one.")
    best_metric: Literal["none", "loss", "ce", "likelihood_correct", "likelihood_gap"] = Field(
        "none", description="The step with the best value is exported; none: the last step."
    )
    patience: int = Field(
        0, ge=0, description="Validations in a row without a better value that end the training."
    )


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
    compile: bool = Field(False, description="torch.compile of each block.")
    cpu_offload: bool = Field(
        False, description="Weights, gradients and optimizer of GPU workers rest in host memory."
    )
    lora: LoraKnobs = LoraKnobs()
    validation: ValidationKnobs = ValidationKnobs()
    checkpoint_every: int = Field(100, ge=1, description="Steps between checkpoints.")
    max_failures: int = Field(3, ge=0, description="Restarts of the workers before giving up.")
    seed: int = Field(0, description="Of the order of groups.")


class PoolKnobs(Knobs):
    workers: int = Field(1, ge=1, description="Actors or ranks.")
    cpus: float = Field(1.0, ge=0, description="CPUs of each.")
    gpus: int = Field(0, ge=0, description="GPUs of each.")
    memory_gib: float = Field(0.0, ge=0, description="Memory reserved for each; 0: not counted.")
    resources: dict[str, float] = Field(
        {}, description="Custom resources of each, as nodes declare them: {name: amount}."
    )
    labels: dict[str, str] = Field(
        {}, description="Labels its nodes must have, as Ray selects: value, !value, in(a, b)."
    )

    def remote_args(self) -> dict[str, Any]:
        """What one actor takes and where it may run, in Ray's words."""
        where = {"resources": self.resources, "label_selector": self.labels}
        where |= {"memory": self.memory_gib * 2**30}
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            **{name: value for name, value in where.items() if value},
        }


class PoolsKnobs(Knobs):
    teacher: PoolKnobs = PoolKnobs()
    teachers: list[PoolKnobs] = Field(
        [], description="Of the further `teachers`, in their order; empty: each as `teacher`."
    )
    judges: PoolKnobs = PoolKnobs(cpus=0.5)
    student: PoolKnobs = PoolKnobs()
    evaluation: PoolKnobs = PoolKnobs()
    autoscaling: bool = Field(
        False, description="The cluster adds nodes on demand: pools may exceed what is there now."
    )
    gpu_hour_price: float = Field(0.0, ge=0, description="Money, for the report; 0: hours only.")
    cpu_hour_price: float = Field(0.0, ge=0, description="Money, for the report; 0: hours only.")

    def of_teacher(self, place: int) -> PoolKnobs:
        """0: `teacher`, then `teachers` in their order."""
        return self.teachers[place - 1] if place and self.teachers else self.teacher

    def price_per_hour(self, pool: PoolKnobs) -> float:
        per_worker = pool.gpus * self.gpu_hour_price + pool.cpus * self.cpu_hour_price
        return pool.workers * per_worker


class EvaluationKnobs(Knobs):
    n: int = Field(1, ge=1, description="Completions per problem; more than 1 gives pass@k.")
    temperature: float = Field(0.0, ge=0, description="0: greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus.")
    max_new_tokens: int = Field(2048, gt=0, description="Longest completion.")
    loop_repeats: LoopRepeats = 0
    seed: int = Field(0, description="Of sampling.")
    engine: EngineKnobs = EngineKnobs()


class Recipe(Knobs):
    name: str = Field(pattern=NAME, description="Names the run folder.")
    task: TaskKnobs
    teacher: TeacherKnobs
    teachers: list[TeacherKnobs] = Field(
        [], description="Further teachers; each problem is written by one, by task and share."
    )
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
    tracking: TrackingKnobs = TrackingKnobs()

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
    most = min(sampling.most, recipe.selection.group_size or sampling.most)
    errors = _lineup_errors(recipe, size)
    if size < recipe.selection.min_size:
        errors.append(
            f"selection.min_size: {recipe.selection.min_size} completions cannot be had from "
            f"groups of {size}; every group would be dropped"
        )
    if recipe.selection.min_correct > most:
        errors.append(f"selection.min_correct: {recipe.selection.min_correct} of {most} cannot be")
    if not training.mask_prompt and training.shared_prompt:
        errors.append("training.mask_prompt: false needs training.shared_prompt: false")
    if bad := [epoch for epoch in compare.epochs if not 1 <= epoch <= training.epochs]:
        errors.append(f"compare.epochs: {bad} not within training.epochs = {training.epochs}")
    if (compare.learning_rates or compare.epochs) and recipe.task.num_validation == 0:
        errors.append("task.num_validation: choosing by compare.* needs validation problems")
    errors += sampling_errors(sampling)
    if training.overlap and compare.learning_rates:
        errors.append("training.overlap: true trains once; set compare.learning_rates: []")
    evaluation = recipe.evaluation
    if evaluation.max_new_tokens >= evaluation.engine.max_model_len:
        errors.append(
            f"evaluation.max_new_tokens: {evaluation.max_new_tokens} leaves no room for the prompt "
            f"in the engine's max_model_len = {evaluation.engine.max_model_len}"
        )
    errors += _teaching_errors(recipe)
    errors += training_errors(recipe)
    return errors + weight_errors(recipe.reward)


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


def _teaching_errors(recipe: Recipe) -> list[str]:
    pools, teachers = recipe.pools, all_teachers(recipe)
    if pools.teachers and len(pools.teachers) != len(recipe.teachers):
        return [
            f"pools.teachers: {len(pools.teachers)} pools for {len(recipe.teachers)} further "
            "teachers; give one each, or none"
        ]
    errors = []
    for place, (name, teacher) in enumerate(teachers.items()):
        errors += teacher_errors(name, teacher, recipe.sampling)
        pool = pools.of_teacher(place)
        errors.append(pool_error(f"pools.{name}", teacher.engine, pool.workers, pool.gpus))
    pool = pools.evaluation
    errors.append(pool_error("pools.evaluation", recipe.evaluation.engine, pool.workers, pool.gpus))
    if recipe.teacher.is_remote and "teacher" in recipe.compare.baselines:
        errors.append(
            "compare.baselines: an endpoint is not evaluated; leave out 'teacher' or make a local "
            "model the first teacher"
        )
    return [error for error in errors if error]


def all_teachers(recipe: Recipe) -> dict[str, TeacherKnobs]:
    """The recipe's section of each teacher -> the teacher, `teacher` first."""
    further = {f"teachers.{i}": teacher for i, teacher in enumerate(recipe.teachers)}
    return {"teacher": recipe.teacher, **further}


def training_errors(recipe: Recipe) -> list[str]:
    training, validation = recipe.training, recipe.training.validation
    errors = []
    if validation.best_metric != "none" and not validation.share:
        errors.append(
            "training.validation.best_metric: needs held-out groups; set training.validation.share"
        )
    if validation.patience and validation.best_metric == "none":
        errors.append(
            "training.validation.patience: needs a value to watch; set "
            "training.validation.best_metric"
        )
    if validation.share and training.overlap:
        errors.append(
            "training.validation.share: held-out groups must be complete before training; set "
            "training.overlap: false"
        )
    if validation.best_metric != "none" and recipe.compare.epochs:
        errors.append(
            "compare.epochs: validation.best_metric already chooses the step; set compare.epochs: "
            "[] or training.validation.best_metric: none"
        )
    if training.compile and training.shared_prompt and not recipe.pools.student.gpus:
        errors.append(
            "training.compile: without GPUs every packed batch would be compiled anew; set "
            "training.shared_prompt: false or training.compile: false"
        )
    if training.cpu_offload and not recipe.pools.student.gpus:
        errors.append(
            "training.cpu_offload: there is no GPU memory to save; set pools.student.gpus or false"
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
        if node.get(section) is None:  # absent, or null in a written recipe
            node[section] = {}
        node = node[section]
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
    tags = ("advdistill", "sft", "<word>", "<table>", ENGINE_TAG, ENDPOINT_TAG)
    where = ".".join(str(part) for part in first["loc"] if part not in tags)
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key{_suggestion(first['loc'])}"
    if first["type"] == "missing":
        return f"{where}: required, not given"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message} (got {first['input']!r:.200})" if where else message


def _suggestion(loc: tuple[int | str, ...]) -> str:
    sections: list[type[BaseModel]] = [Recipe]
    for part in loc[:-1]:
        fields = [section.model_fields.get(str(part)) for section in sections]
        # Tags and list indices stay in the section they stand in.
        sections = [m for f in fields if f for m in models_in(f.annotation)] or sections
    names = [f.alias or name for section in sections for name, f in section.model_fields.items()]
    close = difflib.get_close_matches(str(loc[-1]), [n for n in names if n != loc[-1]], n=1)
    return f", did you mean {close[0]}?" if close else ""
