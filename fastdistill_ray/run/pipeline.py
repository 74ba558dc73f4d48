"""The stages of a recipe bound to a run folder, in the order of the data flow.

Each function skips what the run already has. Read jobs/distill.py first.
"""

import json
import os
import shutil
import threading
from pathlib import Path

from fastdistill_ray.evaluation.answers import Model, evaluate
from fastdistill_ray.evaluation.results import Trial, choose, write_results
from fastdistill_ray.groups.curation import curate
from fastdistill_ray.groups.reweighting import reselect
from fastdistill_ray.groups.steps import StepPlan, num_steps
from fastdistill_ray.groups.store import FAILED, Store, wait_until_complete
from fastdistill_ray.recipe.compare import ComparedModel, Student
from fastdistill_ray.recipe.derived import all_teachers, judging_of, students
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.records import SPLITS, Split
from fastdistill_ray.run.folder import RunDir
from fastdistill_ray.run_files import StageResult, write_text
from fastdistill_ray.tasks import TaskKnobs, load_problems
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems
from fastdistill_ray.training.job import TrainJob, train
from fastdistill_ray.training.monitor import FollowMetrics
from fastdistill_ray.training.trackers import Trackers
from fastdistill_ray.verifiers import Judge, VerifierKnobs


def prepare_problems(recipe: Recipe, run: RunDir) -> dict[Split, ProblemFile]:
    """Load the task once; later runs of this folder read the same problems back."""
    folder = run.stage("problems", _write_problems, recipe.task, recipe.reward.verifier)
    return {split: ProblemFile(folder / f"{split}.parquet") for split in SPLITS}


def _write_problems(task: TaskKnobs, verifier: VerifierKnobs, *, out: Path) -> StageResult:
    num_in = num_out = 0
    with Judge(verifier) as judge:
        for split, problems in load_problems(task).items():
            usable = [
                problem
                for problem in problems
                if not judge.reference_error(problem.kind, problem.reference, problem.options)
            ]
            num_in, num_out = num_in + len(problems), num_out + len(usable)
            write_problems(usable, out / f"{split}.parquet")
    dropped = {"reference_unusable": num_in - num_out} if num_in > num_out else {}
    return StageResult(num_in, num_out, dropped)


def generate_groups(recipe: Recipe, run: RunDir, problems: ProblemFile) -> Path:
    """Problems -> the teacher's judged and weighted groups in the store."""
    return run.stage(
        "groups",
        curate,
        problems,
        list(all_teachers(recipe).values()),
        recipe.sampling,
        judging_of(recipe),
        recipe.pools,
        pool=recipe.pools.teacher,
    )


def generate_and_train(recipe: Recipe, run: RunDir, problems: ProblemFile) -> list[Trial]:
    """Groups and every student of the comparison; side by side when training.overlap says so."""
    if not recipe.training.overlap:
        generate_groups(recipe, run, problems)
        return train_students(recipe, run, len(problems))
    writer = threading.Thread(
        target=_generate_or_mark_failed, args=(recipe, run, problems), daemon=True
    )
    run.folder("groups").mkdir(parents=True, exist_ok=True)
    (run.folder("groups") / FAILED).unlink(missing_ok=True)
    writer.start()
    trials = train_students(recipe, run, len(problems))
    writer.join()
    return trials


def _generate_or_mark_failed(recipe: Recipe, run: RunDir, problems: ProblemFile) -> None:
    try:
        generate_groups(recipe, run, problems)
    except BaseException as error:  # the trainer follows the store and must not wait for ever
        write_text(run.folder("groups") / FAILED, f"{type(error).__name__}: {error}")
        raise


def train_students(recipe: Recipe, run: RunDir, num_problems: int) -> list[Trial]:
    """Every student with every learning rate tried, on the groups of the store."""
    return [
        trial
        for student in students(recipe)
        for name, rate in student.stages.items()
        for trial in _train(recipe, run, student, name, rate, num_problems)
    ]


def _train(
    recipe: Recipe, run: RunDir, student: Student, name: str, rate: float, num_problems: int
) -> list[Trial]:
    groups = _groups_for(recipe, run, student)
    knobs = recipe.training
    follow = knobs.overlap and groups == run.folder("groups")
    plan = StepPlan(
        str(groups),
        knobs.groups_per_step,
        knobs.epochs,
        knobs.max_steps,
        knobs.seed,
        follow,
        knobs.held_out.share,
    )
    num_groups = num_problems if follow else Store(groups).num_kept()
    total_steps = num_steps(plan, num_groups)
    job = TrainJob(
        model=student.model,
        prompt=recipe.student.prompt,
        objective=student.objective,
        advantage=recipe.advantage,
        optimizer=recipe.optimizer.model_copy(update={"learning_rate": rate}),
        training=knobs,
        plan=plan,
        total_steps=total_steps,
        export_epochs=_exports(recipe),
    )
    out = run.folder(name)
    trackers = Trackers(recipe.tracking, out, f"{recipe.name}/{student.name}/lr_{rate:g}")
    if not run.is_complete(name):
        trackers.open()
    with FollowMetrics(
        out / "metrics.jsonl", f"train {student.name} {rate:g}", total_steps, trackers
    ):
        run.stage(
            name,
            train,
            job,
            recipe.pools.student,
            pool=recipe.pools.student,
        )
    return _trials(out, student.name, rate)


def _groups_for(recipe: Recipe, run: RunDir, student: Student) -> Path:
    """The store a student is trained on: the recipe's, or one with fewer completions per group."""
    groups = run.folder("groups")
    if student.group_size is None:
        return groups
    wait_until_complete(Store(groups))
    return run.stage(
        f"groups_of_{student.group_size}",
        reselect,
        groups,
        recipe.selection.model_copy(update={"group_size": student.group_size}),
        recipe.advantage,
        judging_of(recipe).tau,
    )


def _exports(recipe: Recipe) -> list[int]:
    """Epochs whose end is exported; none where a metric chooses the step."""
    if recipe.training.held_out.best_metric != "none":
        return []
    return recipe.compare.epochs or [recipe.training.epochs]


def _trials(out: Path, name: str, rate: float) -> list[Trial]:
    """The exported students of a finished training with what each had cost by then."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]

    def trial(folder: Path, epoch: int, spent: list[dict[str, float]]) -> Trial:
        return Trial(
            student=name,
            learning_rate=rate,
            epoch=epoch,
            weights=str(folder),
            seconds=sum(line["time/step"] + line.get("time/held_out", 0.0) for line in spent),
            trained_tokens=sum(line["train/trained_tokens"] for line in spent),
        )

    trials = []
    for folder in sorted(out.glob("epoch_*"), key=_number):
        epoch = _number(folder)
        trials.append(trial(folder, epoch, [line for line in metrics if line["epoch"] < epoch]))
    for folder in out.glob("best_step_*"):  # known to be the best by the steps after it
        trials.append(trial(folder, metrics[_number(folder) - 1]["epoch"] + 1, metrics))
    return trials


def _number(folder: Path) -> int:
    return int(folder.name.rpartition("_")[2])


def choose_students(
    recipe: Recipe, run: RunDir, trials: list[Trial], problems: ProblemFile
) -> dict[str, Trial]:
    """The best trial of each student on validation problems, put into students/<name>."""
    validated = None
    if recipe.compare.learning_rates or recipe.compare.epochs:
        models = [Model(trial.name, trial.weights, recipe.student.prompt) for trial in trials]
        validated = _evaluate(recipe, run, "validate", models, [problems])
    chosen = choose(trials, validated, out=run.path / "stages" / "choose.json")
    for name, trial in chosen.items():
        _place(Path(trial.weights), run.path / "students" / name)
    return chosen


def evaluate_models(
    recipe: Recipe, run: RunDir, chosen: dict[str, Trial], problems: list[ProblemFile]
) -> None:
    """Baselines and students on the same problems; writes results.json."""
    student, teacher = recipe.student, recipe.teacher
    plain = student.prompt.model_copy(update={"system": ""})
    baselines = {
        "base_plain": Model("base_plain", student.model, plain),
        "base": Model("base", student.model, student.prompt),
        "teacher": Model("teacher", teacher.model, teacher.prompt),
    }
    models = [model for name, model in baselines.items() if name in recipe.compare.baselines]
    models += [
        Model(other.name, other.model, other.prompt)
        for other in recipe.compare.baselines
        if isinstance(other, ComparedModel)
    ]
    models += [Model(name, str(run.path / "students" / name), student.prompt) for name in chosen]
    folder = _evaluate(recipe, run, "evaluate", models, problems)
    write_results(
        folder,
        [model.name for model in models],
        recipe.objective.kind,
        chosen,
        out=run.path / "results.json",
    )


def _evaluate(
    recipe: Recipe, run: RunDir, stage: str, models: list[Model], problems: list[ProblemFile]
) -> Path:
    return run.stage(
        stage,
        evaluate,
        models,
        problems,
        recipe.evaluation,
        recipe.reward.verifier,
        recipe.pools,
        pool=recipe.pools.evaluation,
    )


def _place(weights: Path, folder: Path) -> None:
    """Copy by hard links where the file system has them: the files are never written again."""
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(weights, temporary, copy_function=_link_or_copy)
    os.replace(temporary, folder)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
