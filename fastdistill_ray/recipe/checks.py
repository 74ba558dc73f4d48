"""Settings that are each valid and together impossible; each line names what to change."""

from collections.abc import Mapping
from typing import get_args

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.generation.knobs import pool_error, sampling_errors, teacher_errors
from fastdistill_ray.recipe.compare import Baseline, ComparedModel
from fastdistill_ray.recipe.derived import StudentSpec, all_teachers, students
from fastdistill_ray.recipe.needs import frozen_errors, rounds_errors, view_errors, writer_errors
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards.scorer import weight_errors
from fastdistill_ray.run_files import seed_name


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
    for field in ("learning_rates", "seeds", "epochs"):
        trials = getattr(compare, field)
        if len(set(trials)) < len(trials):
            errors.append(f"compare.{field}: {trials} names a trial twice; keep one")
    if (compare.learning_rates or compare.epochs) and recipe.task.num_validation == 0:
        errors.append("task.num_validation: choosing by compare.* needs validation problems")
    errors += sampling_errors(sampling)
    for field in ("learning_rates", "seeds"):
        if training.overlap and getattr(compare, field):
            errors.append(f"training.overlap: true trains once; set compare.{field}: []")
    evaluation = recipe.evaluation
    if evaluation.n > 1 and evaluation.temperature == 0:
        errors.append(
            f"evaluation.temperature: 0 makes the {evaluation.n} completions of a problem "
            "identical; set one above 0, or evaluation.n: 1"
        )
    if evaluation.max_new_tokens >= evaluation.engine.max_model_len:
        errors.append(
            f"evaluation.max_new_tokens: {evaluation.max_new_tokens} leaves no room for the prompt "
            f"in the engine's max_model_len = {evaluation.engine.max_model_len}"
        )
    errors += _vote_errors(recipe, size)
    errors += _resource_errors(recipe) + _teaching_errors(recipe)
    errors += rounds_errors(recipe) + view_errors(recipe) + writer_errors(recipe)
    errors += training_errors(recipe)
    if scorer := recipe.scorer:
        pool = recipe.pools.of_scorer
        errors.append(pool_error("pools.scorer", scorer.engine, pool.workers, pool.gpus))
    return [error for error in errors if error] + weight_errors(recipe.reward)


def _lineup_errors(recipe: Recipe, size: int) -> list[str]:
    """Faults of the students and baselines; `size` is that of the recipe's groups."""
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
    further = [seed_name(student.name, s) for student in own for s in student.seeds[1:]]
    for place, student in enumerate(own):
        errors += _chain_errors(recipe, student, {one.name: one for one in own[:place]})
    errors += _ensemble_errors(recipe, [*(student.name for student in own), *further])
    voting = [one.name for one in recipe.compare.ensembles]
    names = [*words, *others, *(student.name for student in own), *further, *voting]
    reserved = {*others, *voting} & set(get_args(Baseline))
    if repeated := sorted({name for name in names if names.count(name) > 1} | reserved):
        errors.append(
            f"compare: the name {repeated[0]} may appear once among baselines, students and "
            "ensembles; give the other a name of its own"
        )
    return errors


def _ensemble_errors(recipe: Recipe, there: list[str]) -> list[str]:
    """`there`: names of the students of all seeds."""
    errors = []
    for place, one in enumerate(recipe.compare.ensembles):
        where = f"compare.ensembles.{place}.of"
        errors += [
            f"{where}: {name} is no student; those are {', '.join(there)}"
            for name in one.of
            if name not in there
        ]
        if len(set(one.of)) < len(one.of):
            errors.append(f"{where}: {one.of} names a student twice; keep one")
    return errors


def _chain_errors(
    recipe: Recipe, student: StudentSpec, before: Mapping[str, StudentSpec]
) -> list[str]:
    """Of a student whose teacher is another one, or that begins as another one, which is trained
    before it."""
    for field in ("teacher", "start", "writer"):
        name, where = getattr(student, field), f"{student.section}.{field}"
        if name and name not in before:
            there = ", ".join(before)
            return [f"{where}: {name} is no student before it; those are {there}"]
        if name and recipe.compare.epochs and recipe.training.epochs not in recipe.compare.epochs:
            return [
                f"compare.epochs: {recipe.compare.epochs} exports no student of the last epoch, "
                f"{recipe.training.epochs}, which {where} goes on from; add it"
            ]
        rates = before[name].learning_rates if name else []
        if len(rates) > 1 and not set(student.learning_rates) <= set(rates):
            return [
                f"{student.section}.learning_rate: {name} ({where}) is trained at "
                f"{', '.join(f'{one:g}' for one in rates)}, so that nothing says which of them it "
                "goes on from; leave it out, or take one of these"
            ]
    errors = _teacher_errors(student) if student.teacher else []
    return errors + (_start_errors(recipe, student) if student.start else [])


def _start_errors(recipe: Recipe, student: StudentSpec) -> list[str]:
    section, signal = student.section, student.objective.needs.signal
    if student.model_field == f"{section}.model":
        return [f"{section}.model: it begins as {student.start}, of that one's model; leave it out"]
    if signal and signal.by == "student":
        return [
            f"{section}.start: what {student.start} thinks of the texts is not stored, which "
            f"{student.objective.kind} compares with; set reference: live"
        ]
    if recipe.training.overlap:
        return [
            f"training.overlap: true trains while the teacher writes, which {student.start} must "
            f"have ended before ({section}.start); set it to false"
        ]
    return []


def _teacher_errors(student: StudentSpec) -> list[str]:
    field, needs = f"{student.section}.teacher", student.objective.needs
    if needs.speaker != "teacher":
        return [
            f"{field}: {student.objective.kind} learns from texts alone; leave it out, or take a "
            "kind that learns from distributions, such as forward_kl"
        ]
    if needs.signal:
        return [f"{field}: a former student is asked live; set states: live, or a kind that is"]
    return []


def _vote_errors(recipe: Recipe, size: int) -> list[str]:
    """Of completions judged by each other; `size` is that of the recipe's groups."""
    if recipe.reward.reference == "gold" and recipe.new_problems:
        return [
            "new_problems: nobody knows their answers, so that completions are judged by each "
            "other; set reward.reference: vote"
        ]
    if recipe.reward.reference == "gold":
        if recipe.task.unlabelled:
            return [
                "task.unlabelled: true needs completions to be judged without answers; set "
                "reward.reference: vote"
            ]
        return []
    errors = []
    if size < recipe.selection.min_votes:
        errors.append(
            f"selection.min_votes: {recipe.selection.min_votes} votes cannot be had from groups of "
            f"{size}; every group would be dropped"
        )
    if recipe.sampling.max_n:
        errors.append(
            "sampling.max_n: it draws until enough completions are correct, which a vote says of "
            "whole groups only; set none, or reward.reference: gold"
        )
    errors += [
        f"{student.rounds_field}: a student's own texts are judged by answers; set "
        "reward.reference: gold"
        for student in students(recipe)
        if student.rounds
    ]
    return errors


def _resource_errors(recipe: Recipe) -> list[str]:
    pools = {name: pool for name, pool in recipe.pools if isinstance(pool, PoolKnobs)}
    pools |= {f"teachers.{i}": pool for i, pool in enumerate(recipe.pools.teachers)}
    errors = [
        f"pools.{name}.workers: at least {pool.least} of at most {pool.workers} cannot be"
        for name, pool in pools.items()
        if pool.least > pool.workers
    ]
    return errors + [
        f"pools.{pool}.resources.{name}: {amount:g}, expected 0 or more"
        for pool, knobs in pools.items()
        for name, amount in knobs.resources.items()
        if amount < 0
    ]


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
    if pool := pools.writer:
        engine = recipe.evaluation.engine
        errors.append(pool_error("pools.writer", engine, pool.workers, pool.gpus))
    pool = pools.evaluation
    errors.append(pool_error("pools.evaluation", recipe.evaluation.engine, pool.workers, pool.gpus))
    return [error for error in errors if error]


def training_errors(recipe: Recipe) -> list[str]:
    training, held_out = recipe.training, recipe.training.held_out
    errors = []
    if held_out.best_metric != "none" and not held_out.share:
        errors.append(
            "training.held_out.best_metric: needs held-out groups; set training.held_out.share"
        )
    if held_out.patience and held_out.best_metric == "none":
        errors.append(
            "training.held_out.patience: needs a value to watch; set training.held_out.best_metric"
        )
    if held_out.share and training.overlap:
        errors.append(
            "training.held_out.share: held-out groups must be complete before training; set "
            "training.overlap: false"
        )
    if held_out.best_metric != "none" and recipe.compare.epochs:
        errors.append(
            "compare.epochs: held_out.best_metric already chooses the step; set compare.epochs: "
            "[] or training.held_out.best_metric: none"
        )
    if training.compile and training.shared_prompt and not recipe.pools.student.gpus:
        errors.append(
            "training.compile: without GPUs every packed batch would be compiled anew; set "
            "training.shared_prompt: false or training.compile: false"
        )
    errors += _idle_ranks(recipe) + frozen_errors(recipe)
    if training.replicas > 1 and recipe.pools.student.is_range:
        errors.append(
            "training.replicas: copies need one number of pools.student.workers, not [least, most]"
        )
    elif recipe.pools.student.workers % training.replicas:
        errors.append(
            f"training.replicas: {recipe.pools.student.workers} pools.student.workers cannot be "
            f"divided among {training.replicas} copies"
        )
    for name in ("cpu_offload", "activation_offload"):
        if getattr(training, name) and not recipe.pools.student.gpus:
            errors.append(
                f"training.{name}: there is no GPU memory to save; set pools.student.gpus or false"
            )
    if training.activation_offload and not training.activation_checkpointing:
        errors.append(
            "training.activation_offload: what it moves is what is kept by "
            "training.activation_checkpointing; set that to true too"
        )
    return errors


def _idle_ranks(recipe: Recipe) -> list[str]:
    """A step is dealt to ranks by completions, or by groups that must stay whole."""
    ranks, per_step = recipe.pools.student.workers, recipe.training.groups_per_step
    for student in students(recipe):
        in_group = min(recipe.sampling.most, student.group_size or recipe.sampling.most)
        in_group = student.rounds.n if student.rounds else in_group
        whole = student.objective.trains_one or student.objective.needs.whole_groups
        most = per_step * (1 if whole else in_group)
        if ranks > most:
            return [
                f"pools.student.workers: {ranks} ranks, and a step of {student.name} has at most "
                f"{most} {'groups' if whole else 'completions'} to train, so that some would never "
                f"have any; lower it, or raise training.groups_per_step = {per_step}"
            ]
    return []
