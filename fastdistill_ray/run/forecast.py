"""What a recipe would find done in a run folder, and what it would do there: nothing is written."""

import json
from collections.abc import Iterator

from fastdistill_ray.evaluation.knobs import Model
from fastdistill_ray.evaluation.results import Trial, choose, trials_in
from fastdistill_ray.groups.log import LOG
from fastdistill_ray.groups.reweighting import num_missing
from fastdistill_ray.groups.store import Store
from fastdistill_ray.recipe.condense import CondenseRecipe
from fastdistill_ray.recipe.derived import StudentSpec, baselines, reads_groups, students
from fastdistill_ray.recipe.loading import dump_recipe
from fastdistill_ray.recipe.shapes import DISTILL
from fastdistill_ray.recipe.tree import AnyRecipe, Recipe
from fastdistill_ray.records import SPLITS
from fastdistill_ray.run.condense_stages import describe_condensing
from fastdistill_ray.run.graph import Stage, find, nearest
from fastdistill_ray.run.inputs import check_task
from fastdistill_ray.run.paid import AGAIN, check_not_paid_twice, cost, sources_of
from fastdistill_ray.run.plan import describe
from fastdistill_ray.run.rates import Rates
from fastdistill_ray.run.stages import (
    REWRITTEN,
    SELECTED,
    SIGNALS,
    TRAIN,
    WRITTEN,
    Stages,
    training_problems,
)
from fastdistill_ray.run_files import METRICS, seed_name
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks import words_in_a_row
from fastdistill_ray.tasks.problem_file import ProblemFile

UNCHANGED = "nothing of it is there"
ANSWERS, OVERLAPS = "answers", "overlaps"  # kinds of stages
AFTER_GROUPS = (TRAIN, SIGNALS, SELECTED, WRITTEN, REWRITTEN)
# By verb, what stages begin with that it does not come to.
NOT_OF = {
    "generate": (*AFTER_GROUPS, OVERLAPS, ANSWERS),
    "train": (OVERLAPS, ANSWERS),
}


def describe_plan(recipe: AnyRecipe, run: Place | None, verb: str = DISTILL) -> str:
    """What a job would do; None: in a folder that is not seen from here. Of what is no
    distillation nothing is forecast: its recipe, whole."""
    recipe.check_files()
    if isinstance(recipe, CondenseRecipe) and run:
        return f"in {run}\n{describe_condensing(recipe, run)}"
    if not isinstance(recipe, Recipe):
        return dump_recipe(recipe)
    check_task(recipe.task)
    stages = f"\n\nin {run}\n{describe_stages(recipe, run, verb)}" if run else ""
    return f"{describe(recipe, verb)}{stages}"


def describe_stages(recipe: Recipe, run: Place, verb: str = DISTILL) -> str:
    """A line for each stage that the verb comes to: reused, to be continued, or new with the field
    that changed and what it would take; then what all new ones would take."""
    rates = Rates(recipe, run)
    lines = [
        (name, state)
        for name, state in _lines(recipe, run, rates)
        if verb not in NOT_OF or not name.startswith(NOT_OF[verb])
    ]
    if total := rates.total():
        lines.append(("all that is new", total))
    width = max(28, *(len(name) for name, _ in lines))
    return "\n".join(f"{name:<{width}} {text}" for name, text in lines)


def check_run(recipe: Recipe, run: Place, again: list[str], *, is_here: bool) -> None:
    """UserError where the recipe's problems cannot be had, files being those of this machine where
    `is_here`, or where it would ask a teacher again for what this run has paid for."""
    stages = Stages(recipe, run)
    file = training_problems(run, recipe)
    problems = find(run, stages.problems())
    if file and reads_groups(recipe):
        check_not_paid_twice(run, stages.groups(file), recipe, len(file), again)
    elif is_here and not (problems and problems.is_complete):
        check_task(recipe.task)


def _lines(recipe: Recipe, run: Place, rates: Rates) -> Iterator[tuple[str, str]]:
    stages = Stages(recipe, run)
    stage = stages.problems()
    yield stage.name, _state(run, stage)
    found = find(run, stage)
    if not found or not found.is_complete:
        yield "all others", "new, with the problems"
        return
    files = {split: ProblemFile(found.folder / f"{split}.parquet") for split in SPLITS}
    if recipe.new_problems:
        stage = stages.new_problems(files["train"])
        yield stage.name, _state(run, stage, rates, len(files["train"]), "problems")
    train = training_problems(run, recipe)
    if train is None:
        yield "all others", "new, with the new problems"
        return
    if reads_groups(recipe):
        yield _groups_line(recipe, run, stages.groups(train), train, rates)
    trials: dict[str, list[Trial]] = {}
    for student in students(recipe):
        yield from _training_lines(recipe, run, student, train, trials, rates)
    tests = [files["test"], files["ood"]]
    num_tests = sum(map(len, tests))
    size, groups = words_in_a_row(recipe.task), find(run, stages.groups(train))
    if size and groups and reads_groups(recipe):
        stage = stages.overlaps(groups.folder.name, tests, size)
        yield stage.name, _state(run, stage, rates, num_tests, "problems")
    for model in baselines(recipe):
        stage = stages.answers(model, tests)
        yield stage.name, _state(run, stage, rates, num_tests, "problems")
    for student in students(recipe):
        own = trials.get(student.name, [])
        for name, weights in _chosen(recipe, run, student, own, files["validation"]).items():
            if not weights:
                time = rates.expected(ANSWERS, num_tests)
                yield (
                    f"{ANSWERS}/{name}",
                    "; ".join(filter(None, ["new, with its training", time])),
                )
                continue
            stage = stages.answers(Model(name, weights, recipe.student.prompt), tests)
            yield stage.name, _state(run, stage, rates, num_tests, "problems")


def _groups_line(
    recipe: Recipe, run: Place, stage: Stage, problems: ProblemFile, rates: Rates
) -> tuple[str, str]:
    if find(run, stage):
        return stage.name, _state(run, stage)
    near = nearest(run, stage)
    why = "; ".join(map(str, near[1])) if near else UNCHANGED
    sources = sources_of(run, stage)
    if sources:
        missing = num_missing(sources, problems)
        time = rates.expected(stage.kind, missing, near[0] if near else None) if missing else ""
        done = {"nothing": "taken from", "selection": "selected again from"}
        what = done.get(sources[0].renew, "judged again from")
        asked = f"asked for the others: {cost(recipe, missing)}" if missing else "not asked"
        where = sources[0].folder.relative_to(run)
        text = f"new, {what} {where}: {why}; the teacher is {asked}"
        return stage.name, "; ".join(filter(None, [text, time]))
    time = rates.expected(stage.kind, len(problems), near[0] if near else None)
    parts = [f"new: {why}", cost(recipe, len(problems)), time]
    parts += [f"refused without --again {AGAIN}"] if near else []
    return stage.name, "; ".join(filter(None, parts))


def _training_lines(
    recipe: Recipe,
    run: Place,
    student: StudentSpec,
    train: ProblemFile,
    trials: dict[str, list[Trial]],
    rates: Rates,
) -> Iterator[tuple[str, str]]:
    """Fills in the trials of the student where all its trainings are complete."""
    steps = student.most_steps(recipe.training, len(train))
    own, is_complete = [], True
    before: dict[str, Stage] = {}  # several trainings may have one in common
    for training in student.trainings:
        if student.writer:
            stages = Stages(recipe, run)
            for stage in (stages.written(training, train), stages.groups_of(training, train)):
                before[stage.name] = stage
        if student.objective.needs.signal:
            stage = Stages(recipe, run).signals(training, train)
            before[stage.name] = stage
    for stage in before.values():
        yield stage.name, _state(run, stage, rates, len(train), "groups")
    for training in student.trainings:
        stage = Stages(recipe, run).training(training, train)
        yield stage.name, _state(run, stage, rates, steps, "steps")
        found = find(run, stage)
        if found and found.is_complete:
            rate, seed = training.learning_rate, training.told_seed
            own += trials_in(found.folder, student.name, rate, seed)
        else:
            is_complete = False
    if is_complete:
        trials[student.name] = own


def _chosen(
    recipe: Recipe,
    run: Place,
    student: StudentSpec,
    trials: list[Trial],
    validation: ProblemFile,
) -> dict[str, str]:
    """Weights of the students that validation answers choose, by their names; empty where these
    are not all there."""
    further = [seed_name(student.name, seed) for seed in student.seeds[1:]]
    unknown = dict.fromkeys([student.name, *further], "")
    validated = {}
    if recipe.compare.learning_rates or recipe.compare.epochs:
        for trial in trials:
            model = Model(trial.name, trial.weights, recipe.student.prompt)
            found = find(run, Stages(recipe, run).answers(model, [validation]))
            if not found or not found.is_complete:
                return unknown
            validated[trial.name] = found.folder
    return {name: trial.weights for name, trial in choose(trials, validated).items()} or unknown


def _state(
    run: Place, stage: Stage, rates: Rates | None = None, amount: int = 0, of_what: str = ""
) -> str:
    """Where a stage stands; of one that is new, so many rows or steps at most."""
    found = find(run, stage)
    if found:
        folder = found.folder.relative_to(run)
        if found.is_complete:
            return f"reused  {folder}"
        return "; ".join(filter(None, [f"to be continued  {folder}", _so_far(found.folder)]))
    near = nearest(run, stage)
    parts = [f"new: {'; '.join(map(str, near[1])) if near else UNCHANGED}"]
    if rates:
        parts.append(f"at most {amount:,} {of_what}")
        parts.append(rates.expected(stage.kind, amount, near[0] if near else None))
    return "; ".join(filter(None, parts))


def _so_far(folder: Place) -> str:
    """What is done of a stage that is begun."""
    if (folder / LOG).is_dir():
        return f"{sum(len(commit.keys) for commit in Store(folder).commits())} rows are there"
    if not (folder / METRICS).is_file():
        return ""
    written = (folder / METRICS).read_text()
    lines = written.rpartition("\n")[0].splitlines()  # the last may be half written
    return f"{len(lines)} steps, loss {json.loads(lines[-1])['train/loss']:.4g}" if lines else ""
