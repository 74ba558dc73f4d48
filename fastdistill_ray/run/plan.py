"""A recipe in words: what would run, where, and about how much."""

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import SamplingKnobs
from fastdistill_ray.groups.signals import Signal, bytes_of
from fastdistill_ray.recipe.derived import (
    StudentSpec,
    all_teachers,
    reads_groups,
    speaker_of,
    students,
    trained_models,
)
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards.scorer import describe_rewards
from fastdistill_ray.rewards.selection import WHOLE
from fastdistill_ray.run.paid import answers_price, price, who_writes
from fastdistill_ray.storage.room import gib
from fastdistill_ray.tasks.sizes import count_problems

# By verb, the words with which lines begin that are its own; `distill` does all.
LINES_OF = {
    "generate": ("recipe", "problems", "make", "generate", "reward", "models"),
    "train": ("recipe", "problems", "score", "write", "train", "validate", "models", "memory"),
    "evaluate": ("recipe", "problems", "validate", "evaluate", "report", "models"),
}


def describe(recipe: Recipe, verb: str = "distill") -> str:
    """The plan that --dry-run prints. Tokens are upper bounds: every completion at its limit."""
    lines = _lines(recipe)
    return "\n".join(one for one in lines if verb not in LINES_OF or _is_of(verb, one))


def _is_of(verb: str, line: str) -> bool:
    return line.split()[0] in LINES_OF[verb]


def _lines(recipe: Recipe) -> list[str]:
    counts = count_problems(recipe.task)
    train, held_out = counts["train"], counts["validation"]
    tests = counts["test"] + counts["ood"]
    for number, kind in ((train, "training"), (tests, "test")):
        if not number:
            raise UserError(f"task.name {recipe.task.name}: it has no {kind} problems")
    trained = students(recipe)
    ends = len(recipe.compare.epochs or [recipe.training.epochs])
    trials = ends * sum(len(student.trainings) for student in trained)
    models = len(recipe.compare.baselines) + sum(len(student.seeds) for student in trained)
    new = train * recipe.new_problems.n if recipe.new_problems else 0
    asked = f"{'at most ' if new else ''}{train + new}"
    written = (train + new) * recipe.sampling.most * recipe.sampling.max_new_tokens
    answered = tests * models * recipe.evaluation.n * recipe.evaluation.max_new_tokens
    teachers = list(all_teachers(recipe).values())
    teaching = ", ".join(_pool(recipe.pools.of_teacher(i)) for i in range(len(teachers)))
    lines = [
        f"recipe     {recipe.name}: {' + '.join(t.model for t in teachers)} -> "
        f"{recipe.student.reference}",
        f"problems   {train} train, {held_out} validation, {counts['test']} test, "
        f"{counts['ood']} ood of task {recipe.task.name}"
        + (f" and {recipe.task.ood.name}" if recipe.task.ood else ""),
        *_new_problems_line(recipe, new),
        f"generate   {asked} groups of {_size(recipe.sampling)} completions, at most {written:,} "
        f"tokens{price(who_writes(recipe), written, train + new)}"
        f"  [{teaching}; judges {_pool(recipe.pools.judges)}]"
        if reads_groups(recipe)
        else "generate   nothing: every student is trained on its own texts",
        f"reward     {describe_rewards(recipe.reward)}",
    ]
    for student in trained:
        lines += _scoring_line(recipe, student, written) + _writing_line(recipe, student)
        steps = student.most_steps(recipe.training, train + new)
        epochs = recipe.training.epochs
        passes = f", {epochs} epoch{'s' * (epochs != 1)}" if student.rounds is None else ""
        begins = f"the end of {student.start}" if student.start else student.model
        size = f" on {student.group_size} completions each" if student.group_size else ""
        size += _part(student)
        for training in student.trainings:
            seed = "" if training.told_seed is None else f", seed {training.seed}"
            lines.append(
                f"train      {student.name} from {begins}{size} at learning rate "
                f"{training.learning_rate:g}{seed}: "
                f"at most {steps} steps of {recipe.training.groups_per_step} groups{passes}"
                f"  [{_pool(recipe.pools.student)}]"
            )
    if held_out and (recipe.compare.learning_rates or recipe.compare.epochs):
        lines.append(
            f"validate   {trials} trials on {held_out} problems  [{_pool(recipe.pools.evaluation)}]"
        )
    lines += [
        f"evaluate   {models} models on {tests} problems, at most {answered:,} tokens"
        f"{answers_price(recipe, tests)}  [{_pool(recipe.pools.evaluation)}]",
        "report     report.html, report.md, results.json",
        *_missing_lines(recipe),
        *_memory_lines(recipe),
        f"overlap    {'while the teacher writes' if recipe.training.overlap else 'no, in turn'}",
    ]
    return lines


def _new_problems_line(recipe: Recipe, number: int) -> list[str]:
    """What the teacher is asked for before anything else, at most."""
    if not recipe.new_problems:
        return []
    num_tokens = number * recipe.new_problems.max_new_tokens
    return [
        f"make       {number} new problems by {recipe.teacher.model}, at most {num_tokens:,} tokens"
        f"{price([recipe.teacher], num_tokens, number)}  [{_pool(recipe.pools.teacher)}]"
    ]


def _scoring_line(recipe: Recipe, student: StudentSpec, num_tokens: int) -> list[str]:
    """What is asked before training about the texts, if anything; equal ones are asked once."""
    signal, speaker = student.objective.needs.signal, speaker_of(recipe, student)
    if not signal or not speaker:
        return []
    pool = recipe.pools.evaluation if signal.by == "student" else recipe.pools.of_scorer
    model = speaker.prompted.model
    return [
        f"score      {signal.name} of every trained token, by {model}, for {student.name}"
        f"{_stored(signal, model, num_tokens)}  [{_pool(pool)}]"
    ]


def _stored(signal: Signal, model: str, num_tokens: int) -> str:
    """How much room that takes, where it is known: the width of hidden states stands in the model's
    config.json."""
    from fastdistill_ray.models import folder_at_hand, load_config  # noqa: PLC0415

    width = 0
    if signal.kind == "hidden":
        if (folder := folder_at_hand(model)) is None:
            return ""
        width = load_config(folder).get_text_config().hidden_size
    return f", at most {gib(bytes_of(signal, width) * num_tokens)} stored"


def _writing_line(recipe: Recipe, student: StudentSpec) -> list[str]:
    """What a student writes itself beside its training, or another one before it, if any does."""
    rounds, pools = student.rounds, recipe.pools
    if student.writer:
        return [
            f"write      groups of {_size(recipe.sampling)} completions by {student.writer}"
            f"{_part(student)}, for {student.name}"
            f"  [{_pool(pools.of_writer)}; judges {_pool(pools.judges)}]"
        ]
    if rounds is None:
        return []
    steps = student.most_steps(recipe.training, 0) * len(student.trainings)
    groups = steps * rounds.num_own(recipe.training.groups_per_step)
    tokens = groups * rounds.n * recipe.sampling.max_new_tokens
    at_most = "at most " if rounds.adaptive else ""
    return [
        f"write      {at_most}{groups} groups of {rounds.n} completions by {student.name} itself "
        f"in {-(-steps // rounds.steps)} rounds, at most {tokens:,} tokens"
        f"  [{_pool(pools.of_writer)}; judges {_pool(pools.judges)}]"
    ]


def _part(student: StudentSpec) -> str:
    start, end = student.problems
    return f" on the problems from {start:.0%} to {end:.0%}" if student.problems != WHOLE else ""


def _size(sampling: SamplingKnobs) -> str:
    return f"{sampling.n} to {sampling.max_n}" if sampling.max_n else str(sampling.n)


def _missing_lines(recipe: Recipe) -> list[str]:
    """The models of the hub that are not on this machine."""
    from huggingface_hub.constants import HF_HUB_OFFLINE  # noqa: PLC0415  slow

    from fastdistill_ray.models import folder_at_hand  # noqa: PLC0415

    wanted = {one.model for one in trained_models(recipe)}
    wanted |= {one.model for one in all_teachers(recipe).values() if not one.is_remote}
    missing = sorted(one for one in wanted if folder_at_hand(one) is None and _is_on_hub(one))
    if not missing:
        return []
    if HF_HUB_OFFLINE:
        return [f"models     not here, and HF_HUB_OFFLINE is set: {', '.join(missing)}"]
    return [f"models     not here yet, fetched from the hub at the start: {', '.join(missing)}"]


def _is_on_hub(reference: str) -> bool:
    return reference.count("/") == 1 and not reference.startswith(("/", ".", "~"))


def _memory_lines(recipe: Recipe) -> list[str]:
    """What training takes of a rank, of every student whose config.json is on this machine."""
    from fastdistill_ray.models import folder_at_hand  # noqa: PLC0415

    plans = dict.fromkeys(one.model for one in trained_models(recipe))
    if any(map(folder_at_hand, plans)):
        from fastdistill_ray.run.memory import memory_plans  # noqa: PLC0415  loads torch

        plans = memory_plans(recipe, folder_at_hand)
    return [
        f"memory     {model}: {plan.describe()}"
        if plan
        else f"memory     of {model} not known: the model is not on this machine yet"
        for model, plan in plans.items()
    ]


def _pool(pool: PoolKnobs) -> str:
    devices = f"{pool.gpus} GPU, " if pool.gpus else ""
    workers = f"{pool.least} to {pool.workers}" if pool.is_range else f"{pool.workers}"
    return f"{workers} x {devices}{pool.cpus:g} CPU"
