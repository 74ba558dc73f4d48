"""The stages of a recipe bound to a run folder, in the order of the data flow.

Each function reuses what the run folder already has. Read jobs/distill.py first.
"""

import threading
from collections.abc import Callable
from functools import partial
from itertools import chain

from fastdistill_ray.background import repeated
from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.evaluation.answers import evaluate
from fastdistill_ray.evaluation.ensembles import vote
from fastdistill_ray.evaluation.knobs import Model
from fastdistill_ray.evaluation.results import (
    Trial,
    choose,
    clusters_of,
    write_choice,
    write_results,
)
from fastdistill_ray.groups.curation import curate
from fastdistill_ray.groups.steps import (
    StepPlan,
    num_steps,
    num_trained,
    wait_until_complete,
)
from fastdistill_ray.groups.store import FAILED, Store
from fastdistill_ray.prompts import Prompted
from fastdistill_ray.recipe.derived import (
    Training,
    all_teachers,
    baselines,
    exported_epochs,
    frozen_model,
    gaps,
    is_writer,
    judging_of,
    local_prompts,
    reads_groups,
    speaker_of,
    students,
)
from fastdistill_ray.records import SPLITS, Split
from fastdistill_ray.rounds.policies import Policies
from fastdistill_ray.run.chosen_students import place_student
from fastdistill_ray.run.folder import NOTE_SECONDS, Clock, RunFolder
from fastdistill_ray.run.given import (
    begun_as,
    groups_for,
    last_of,
    signals_for,
    texts_for,
    train_on_written,
    trials_of,
)
from fastdistill_ray.run.graph import Stage, find
from fastdistill_ray.run.inputs import write_tasks
from fastdistill_ray.run.new_problems import write_new_problems
from fastdistill_ray.run.overlaps import look_for_overlaps
from fastdistill_ray.run.paid import is_followed, sources_of
from fastdistill_ray.run.rounds import plan_rounds, share_right, train_in_rounds
from fastdistill_ray.run.signals import ask_first
from fastdistill_ray.run.stages import TRAINING_FILE
from fastdistill_ray.run.tracking import recipe_of, tell_trackers
from fastdistill_ray.run_files import (
    CHECKPOINTS,
    CHOICE,
    MANIFEST,
    METRICS,
    PLACED,
    POLICIES,
    RESULTS,
    STOP,
    STUDENTS,
    StageResult,
    write_text,
)
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks import words_in_a_row
from fastdistill_ray.tasks.problem_file import ProblemFile
from fastdistill_ray.training.job import TrainJob, train
from fastdistill_ray.training.knobs import HeldOutKnobs
from fastdistill_ray.training.monitor import follow_metrics
from fastdistill_ray.training.trackers import Trackers


def prepare_problems(run: RunFolder) -> dict[Split, ProblemFile]:
    """Load the task once; later runs of this folder read the same problems back."""
    return problems_in(run.stage(run.stages.problems(), write_tasks, [run.recipe.task]))


def problems_in(folder: Place) -> dict[Split, ProblemFile]:
    return {split: ProblemFile(folder / f"{split}.parquet") for split in SPLITS}


def add_problems(run: RunFolder, problems: dict[Split, ProblemFile]) -> dict[Split, ProblemFile]:
    """With the training problems that the teacher makes of those of the task, if it does."""
    recipe = run.recipe
    if not recipe.new_problems:
        return problems
    folder = run.stage(
        run.stages.new_problems(problems["train"]),
        write_new_problems,
        problems["train"],
        [problems[split] for split in SPLITS if split != "train"],
        recipe.teacher,
        recipe.new_problems,
        recipe.sampling,
        words_in_a_row(recipe.task),
        recipe.pools,
        pools=recipe.pools.of_groups(1),
    )
    return {**problems, "train": ProblemFile(folder / TRAINING_FILE)}


def generate_groups(run: RunFolder, problems: ProblemFile) -> Place:
    """Problems -> the teacher's judged groups in the store."""
    recipe, stage = run.recipe, run.stages.groups(problems)
    return run.stage(
        stage,
        curate,
        problems,
        list(all_teachers(recipe).values()),
        recipe.sampling,
        judging_of(recipe),
        recipe.pools,
        sources_of(run.path, stage),
        pools=recipe.pools.of_groups(len(recipe.teachers) + 1),
        is_followed=is_followed(run.path, stage, recipe),
    )


def generate_and_train(run: RunFolder, problems: ProblemFile) -> list[Trial]:
    """Groups and every student of the comparison; side by side when training.overlap says so."""
    if not run.recipe.training.overlap:
        if reads_groups(run.recipe):
            generate_groups(run, problems)
        return train_students(run, problems)
    groups = run.enter(run.stages.groups(problems))
    (groups / FAILED).unlink()
    failures: list[BaseException] = []
    writer = threading.Thread(
        target=_generate_or_mark_failed, args=(run, problems, groups, failures), daemon=True
    )
    writer.start()
    try:
        trials = train_students(run, problems)
        writer.join()
    except Exception:
        if failures:  # training failed because generation did
            raise failures[0] from None
        raise
    if failures:
        raise failures[0]
    return trials


def _generate_or_mark_failed(
    run: RunFolder, problems: ProblemFile, groups: Place, failures: list[BaseException]
) -> None:
    try:
        generate_groups(run, problems)
    except BaseException as error:  # noqa: BLE001  raised by the other thread, which follows
        failures.append(error)
        write_text(groups / FAILED, f"{type(error).__name__}: {error}")


def train_students(run: RunFolder, problems: ProblemFile) -> list[Trial]:
    """Every student with every learning rate and seed, on the groups of the store."""
    return [
        trial
        for student in students(run.recipe)
        for training in student.trainings
        for trial in _train(run, training, problems)
    ]


def _train(run: RunFolder, training: Training, problems: ProblemFile) -> list[Trial]:
    recipe, student = run.recipe, training.student
    groups = groups_for(run, training, problems) if student.is_given_groups else None
    begun = begun_as(run, training, problems)
    start = begun.weights if begun else student.model
    work: Callable[..., StageResult]
    if student.rounds:
        if groups:
            wait_until_complete(Store(groups))
        stage = run.stages.training(training, problems)
        out = run.enter(stage)
        taught = share_right(find(run.path, run.stages.groups(problems)))
        written = plan_rounds(
            recipe, training, problems, start=start, mixed=groups, taught=taught, out=out
        )
        rounds = written.plan.rounds
        assert rounds
        job = _job(run, training, problems, written.plan, rounds.num_steps, start, written.policies)
        work = partial(train_in_rounds, job, written)
        pools = [recipe.pools.student, recipe.pools.of_writer, recipe.pools.judges]
    else:
        assert groups
        plan = _plan(run, training, groups, problems)
        total_steps = num_steps(plan, len(problems) if plan.follow else num_trained(plan))
        stage = run.stages.training(training, problems)  # its signals are there by now
        out = run.enter(stage)
        job = _job(run, training, problems, plan, total_steps, start)
        texts = texts_for(run, training, problems)
        work = partial(train_on_written, job, texts) if texts else partial(train, job)
        pools = [recipe.pools.student]
    trackers = Trackers(
        recipe.tracking, out, f"{recipe.name}/{stage.label}", recipe_of(recipe, training)
    )
    if not (out / MANIFEST).exists():
        trackers.open()
    with (
        follow_metrics(out / METRICS, f"train {training.label}", job.total_steps, trackers),
        ask_first(lambda: write_text(out / STOP, ""), recipe.training.stop_seconds),
    ):
        run.stage(stage, work, recipe.pools.student, pools=pools)
    for folder in (CHECKPOINTS, POLICIES):  # a finished training needs none, and only that
        (out / folder).remove_tree()
    return trials_of(run, training, problems)


def _plan(run: RunFolder, training: Training, groups: Place, problems: ProblemFile) -> StepPlan:
    knobs, student = run.recipe.training, training.student
    return StepPlan(
        str(groups),
        knobs.groups_per_step,
        knobs.epochs,
        knobs.max_steps,
        training.seed,
        knobs.overlap and not student.has_own_selection,
        knobs.held_out.share,
        signals_for(run, training, groups, problems),
    )


def _frozen(run: RunFolder, training: Training, problems: ProblemFile) -> Prompted | None:
    """The model beside the student; a former student as it was at its training's end."""
    found, student = frozen_model(run.recipe, training.student), training.student
    former = student.start if student.objective.needs.speaker == "student" else student.teacher
    if not found or not former:
        return found
    return found._replace(model=last_of(run, training, former, problems).weights)


def _job(
    run: RunFolder,
    training: Training,
    problems: ProblemFile,
    plan: StepPlan,
    total_steps: int,
    start: str,
    policies: Policies | None = None,
) -> TrainJob:
    recipe, student = run.recipe, training.student
    knobs = recipe.training.model_copy(update={"seed": training.seed})
    teachers = local_prompts(recipe)
    if policies:  # it reads its own texts
        if not plan.held_out:  # of what is yet to be written
            knobs = knobs.model_copy(update={"held_out": HeldOutKnobs()})
        teachers |= {student.model: recipe.student.prompt}
    return TrainJob(
        model=student.model,
        start=start,
        prompt=recipe.student.prompt,
        teacher_prompts=teachers,
        objective=student.objective,
        frozen=_frozen(run, training, problems),
        advantage=recipe.advantage,
        optimizer=recipe.optimizer.model_copy(update={"learning_rate": training.learning_rate}),
        training=knobs,
        plan=plan,
        total_steps=total_steps,
        export_epochs=exported_epochs(recipe, student),
        rounds=policies,
        is_writer=is_writer(recipe, student, speaker_of(recipe, student)),
    )


def choose_students(run: RunFolder, trials: list[Trial], problems: ProblemFile) -> dict[str, Trial]:
    """The best trial of each student on validation problems, put into students/<name>, those of
    further seeds into students/<name>-seed_<seed>."""
    validated = {}
    if run.recipe.compare.learning_rates or run.recipe.compare.epochs:
        prompt = run.recipe.student.prompt
        models = [Model(trial.name, trial.weights, prompt) for trial in trials]
        validated = _evaluate(run, models, [problems])
    chosen = choose(trials, validated)
    write_choice(trials, validated, chosen, out=run.view / CHOICE)
    for name, trial in chosen.items():
        note = run.view / PLACED / f"{name}.json"
        place_student(Place(trial.weights), run.view / STUDENTS / name, note)
    return chosen


def evaluate_models(run: RunFolder, chosen: dict[str, Trial], problems: list[ProblemFile]) -> None:
    """Baselines and students on the same problems; writes results.json."""
    prompt = run.recipe.student.prompt
    models = [Model(name, trial.weights, prompt) for name, trial in chosen.items()]
    folders = _evaluate(run, [*baselines(run.recipe), *models], problems)
    folders |= _hold_votes(run, folders)
    clusters = clusters_of(chain.from_iterable(problems))
    look_for_overlaps(run, problems)
    main = run.recipe.objective.kind
    voting = {one.name: one.of for one in run.recipe.compare.ensembles}
    of = gaps(run.recipe)
    write_results(folders, clusters, main, chosen, of, voting, out=run.view / RESULTS)
    tell_trackers(run, chosen)


def _hold_votes(run: RunFolder, folders: dict[str, Place]) -> dict[str, Place]:
    """The answers of each ensemble, of those of its members."""
    found = {}
    for one in run.recipe.compare.ensembles:
        members = [folders[name] for name in one.of]
        stage = run.stages.ensemble(one.name, members)
        found[one.name] = run.stage(stage, vote, members, run.recipe.reward.verifier)
    return found


def _evaluate(run: RunFolder, models: list[Model], problems: list[ProblemFile]) -> dict[str, Place]:
    """Each model's answers; those that are there already are reused, the others asked together."""
    recipe = run.recipe
    stages = {model.name: run.stages.answers(model, problems) for model in models}
    folders = {name: run.enter(stage) for name, stage in stages.items()}
    to_ask: dict[Place, Model] = {}  # two names of equal models are one stage
    for model in models:
        folder = folders[model.name]
        if folder not in to_ask and run.is_whole(stages[model.name], folder):
            run.log_reused(stages[model.name], folder)
        else:
            to_ask.setdefault(folder, model)
    for pool in (recipe.pools.evaluation, recipe.pools.teacher):  # who asks an endpoint
        asked = {
            folder: model
            for folder, model in to_ask.items()
            if (pool is recipe.pools.teacher) == (model.endpoint is not None)
        }
        if asked:
            _ask(run, asked, stages, problems, pool)
    return folders


def _ask(
    run: RunFolder,
    to_ask: dict[Place, Model],
    stages: dict[str, Stage],
    problems: list[ProblemFile],
    pool: PoolKnobs,
) -> None:
    """The answers of models that one pool asks, into their folders."""
    recipe = run.recipe
    run.log_started(f"answers of {', '.join(model.name for model in to_ask.values())}")
    clock, work = Clock(*to_ask), None
    try:
        with repeated(clock.note, NOTE_SECONDS):
            results = evaluate(
                list(to_ask.values()),
                problems,
                recipe.evaluation,
                recipe.reward.verifier,
                recipe.pools,
                out={model.name: folder for folder, model in to_ask.items()},
            )
        work = {folder: results[model.name].completion_tokens for folder, model in to_ask.items()}
    finally:
        clock.stop(work)
    for folder, model in to_ask.items():
        run.complete(
            stages[model.name],
            folder,
            results[model.name],
            clock.seconds[folder],
            [pool, recipe.pools.judges],
        )
