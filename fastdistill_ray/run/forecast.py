"""What a recipe would find done in a run folder, and what it would do there: nothing is written."""

import json
from collections.abc import Iterator, Sequence

from fastdistill_ray.errors import UserError
from fastdistill_ray.evaluation.knobs import Model
from fastdistill_ray.evaluation.results import Trial, choose, trials_in
from fastdistill_ray.groups.log import LOG
from fastdistill_ray.groups.reweighting import num_missing
from fastdistill_ray.progress import duration
from fastdistill_ray.recipe.condense import CondenseRecipe
from fastdistill_ray.recipe.derived import (
    StudentSpec,
    baselines,
    exported_epochs,
    reads_groups,
    students,
)
from fastdistill_ray.recipe.loading import dump_recipe
from fastdistill_ray.recipe.shapes import DISTILL
from fastdistill_ray.recipe.tree import AnyRecipe, Recipe
from fastdistill_ray.records import SPLITS
from fastdistill_ray.run.condense_stages import describe_condensing
from fastdistill_ray.run.graph import Change, Made, Stage, find, nearest
from fastdistill_ray.run.inputs import check_files, check_task
from fastdistill_ray.run.paid import (
    check_answers_not_paid_twice,
    check_new_problems_not_paid_twice,
    check_not_paid_twice,
    cost,
    sources_of,
)
from fastdistill_ray.run.plan import describe
from fastdistill_ray.run.rates import (
    Line,
    Work,
    expected,
    num_done,
    seconds_left,
    time_left,
    total_of_new,
    words,
)
from fastdistill_ray.run.stages import (
    REWRITTEN,
    SELECTED,
    SIGNALS,
    TRAIN,
    TRAINING_FILE,
    WRITTEN,
    Stages,
    training_problems,
)
from fastdistill_ray.run_files import METRICS, REPORT, RESULTS, seed_name
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks import words_in_a_row
from fastdistill_ray.tasks.problem_file import ProblemFile

REFUSED = "refused"  # begins a line of a plan: the job would end there
UNCHANGED = "nothing of it is there"
ANSWERS, GROUPS, OVERLAPS = "answers", "groups", "overlaps"  # kinds of stages
REST = "all others"
TRIALS = "_trials"  # ends the name of their answers to validation problems
AFTER_GROUPS = (TRAIN, SIGNALS, SELECTED, WRITTEN, REWRITTEN)
# By verb, what stages begin with that it does not come to.
NOT_OF = {
    "generate": (*AFTER_GROUPS, OVERLAPS, ANSWERS),
    "train": (OVERLAPS, ANSWERS),  # but for those by which a student's trial is chosen
}


def describe_plan(
    recipe: AnyRecipe, run: Place | None, verb: str = DISTILL, again: Sequence[str] = ()
) -> str:
    """What a job would do; None: in a folder that is not seen from here. Of what is no
    distillation nothing is forecast: its recipe, whole."""
    check_files(recipe)
    if isinstance(recipe, CondenseRecipe) and run:
        return f"in {run}\n{describe_condensing(recipe, run)}"
    if not isinstance(recipe, Recipe):
        return dump_recipe(recipe)
    check_task(recipe.task)
    if not run:
        return describe(recipe, verb)
    refused = _refused(recipe, run, verb, again)
    return f"{describe(recipe, verb)}\n\nin {run}\n{describe_stages(recipe, run, verb)}{refused}"


def _refused(recipe: Recipe, run: Place, verb: str, again: Sequence[str]) -> str:
    """A line for what the job would not pay for twice. `again`: what may be."""
    try:
        check_run(recipe, run, list(again), is_here=False, verb=verb)
    except UserError as error:
        return f"\n{REFUSED:<28} {error}"
    return ""


def describe_stages(recipe: Recipe, run: Place, verb: str = DISTILL) -> str:
    """A line for each stage that the verb comes to: reused, begun, or new with the field
    that changed and what it would take; then what all new ones would take, what is left of a run
    that has begun."""
    lines = list(_lines_of(recipe, run, verb))
    rows = [(line.name, line.text) for line in lines]
    if total := total_of_new(lines, recipe.pools):
        rows.append(("all that is new", total))
    if any(line.is_begun for line in lines) and (
        left := time_left(lines, _together(recipe, lines))
    ):
        rows.append(("left of the run", left))
    width = max(28, *(len(name) for name, _ in rows))
    return "\n".join(f"{name:<{width}} {text}" for name, text in rows)


def stages_there(recipe: Recipe, run: Place) -> list[Place]:
    """Folders of stages that the recipe reuses or goes on with, whether it has come to them yet."""
    return [run / line.folder for line in _lines(recipe, run) if line.folder]


def is_done(recipe: Recipe, run: Place) -> bool:
    """Whether all stages of a whole distillation are complete, and its report is there."""
    has_report = (run / RESULTS).is_file() and (run / REPORT).is_file()
    return has_report and all(line.is_done for line in _lines(recipe, run))


def standing(recipe: Recipe, run: Place, verb: str) -> str:
    """`3 of 9 stages are done, about 12:05 left of the run`, as far as that is known."""
    lines = list(_lines_of(recipe, run, verb))
    if any(line.name == REST for line in lines):
        return ""
    left = time_left(lines, _together(recipe, lines))
    done = f"{sum(line.is_done for line in lines)} of {len(lines)} stages are done"
    return f"{done}, {left} left of the run" if left else done


def _lines_of(recipe: Recipe, run: Place, verb: str) -> Iterator[Line]:
    for line in _lines(recipe, run):
        is_choice = verb == "train" and line.name.endswith(TRIALS)
        if verb not in NOT_OF or is_choice or not line.name.startswith(NOT_OF[verb]):
            yield line


def _together(recipe: Recipe, lines: list[Line]) -> list[str]:
    """Names of the stages that are worked on side by side: the first training follows the groups
    as they come."""
    if not recipe.training.overlap:
        return []
    open_ = [line.name for line in lines if not line.is_done]
    trained = [name for name in open_ if name.startswith(f"{TRAIN}/")]
    return [GROUPS, *trained[:1]] if GROUPS in open_ else []


def generates(verb: str) -> bool:
    """Whether the teachers are asked for groups."""
    return verb in (DISTILL, "generate")


def comes_to_answers(verb: str) -> bool:
    """Whether the models answer the test problems."""
    return ANSWERS not in NOT_OF.get(verb, ())


def check_run(
    recipe: Recipe, run: Place, again: list[str], *, is_here: bool, verb: str = DISTILL
) -> None:
    """UserError where the recipe's problems cannot be had, files being those of this machine where
    `is_here`, or where the verb would ask a server or a teacher again for what this run has paid
    for."""
    stages = Stages(recipe, run)
    file = training_problems(run, recipe)
    problems = find(run, stages.problems())
    if problems and problems.is_complete and comes_to_answers(verb):
        tests = [ProblemFile(problems.folder / f"{split}.parquet") for split in ("test", "ood")]
        check_answers_not_paid_twice(run, recipe, tests, again)
    if recipe.new_problems and problems and problems.is_complete:
        own = ProblemFile(problems.folder / TRAINING_FILE)
        check_new_problems_not_paid_twice(run, stages.new_problems(own), again)
    if file and reads_groups(recipe):
        check_not_paid_twice(run, stages.groups(file), recipe, len(file), again)
    elif is_here and not (problems and problems.is_complete):
        check_task(recipe.task)


def _lines(recipe: Recipe, run: Place) -> Iterator[Line]:
    stages = Stages(recipe, run)
    found = find(run, stages.problems())
    yield _line(recipe, run, stages.problems())
    if not found or not found.is_complete:
        yield Line(REST, "new, with the problems")
        return
    files = {split: ProblemFile(found.folder / f"{split}.parquet") for split in SPLITS}
    if recipe.new_problems:
        stage = stages.new_problems(files["train"])
        yield _line(recipe, run, stage, len(files["train"]), "problems")
    train = training_problems(run, recipe)
    if train is None:
        yield Line(REST, "new, with the new problems")
        return
    if reads_groups(recipe):
        yield _groups_line(recipe, run, stages.groups(train), train)
    trials: dict[str, list[Trial]] = {}
    for student in students(recipe):
        yield from _training_lines(recipe, run, student, train, trials)
    if recipe.compare.learning_rates or recipe.compare.epochs:
        for student in students(recipe):
            own = trials.get(student.name)
            yield from _validation_lines(recipe, run, student, own, files["validation"])
    tests = [files["test"], files["ood"]]
    num_tests = sum(map(len, tests))
    size, groups = words_in_a_row(recipe.task), find(run, stages.groups(train))
    if size and groups and reads_groups(recipe):
        stage = stages.overlaps(groups.folder.name, tests, size)
        yield _line(recipe, run, stage, num_tests, "problems")
    for model in baselines(recipe):
        yield _line(recipe, run, stages.answers(model, tests), num_tests, "problems")
    for student in students(recipe):
        own = trials.get(student.name, [])
        for name, weights in _chosen(recipe, run, student, own, files["validation"]).items():
            if weights:
                model = Model(name, weights, recipe.student.prompt)
                yield _line(recipe, run, stages.answers(model, tests), num_tests, "problems")
            else:
                yield _with_training(recipe, run, f"{ANSWERS}/{name}", num_tests)


def _with_training(recipe: Recipe, run: Place, name: str, amount: int, facts: str = "") -> Line:
    """Answers of a student that is yet to be trained."""
    spent = expected(run, Work(ANSWERS), amount)
    text = "; ".join(filter(None, ["new, with its training", facts, words(spent, recipe.pools)]))
    seconds = seconds_left(run, Work(ANSWERS), amount)
    return Line(name, text, is_new=True, seconds=seconds, spent=spent)


def _validation_lines(
    recipe: Recipe,
    run: Place,
    student: StudentSpec,
    trials: list[Trial] | None,
    validation: ProblemFile,
) -> Iterator[Line]:
    """Answers by which one of the student's trials is chosen; None: they are not all there."""
    if trials is None:
        num = len(student.trainings) * max(len(exported_epochs(recipe, student)), 1)
        facts = f"{num} trials x {len(validation)} problems"
        name = f"{ANSWERS}/{student.name}{TRIALS}"
        yield _with_training(recipe, run, name, num * len(validation), facts)
    for trial in trials or []:
        model = Model(trial.name, trial.weights, recipe.student.prompt)
        stage = Stages(recipe, run).answers(model, [validation])
        yield _line(recipe, run, stage, len(validation), "problems")


def _groups_line(recipe: Recipe, run: Place, stage: Stage, problems: ProblemFile) -> Line:
    if find(run, stage):
        return _line(recipe, run, stage, len(problems), "groups")
    near = nearest(run, stage)
    why = "; ".join(map(str, near[1])) if near else UNCHANGED
    sources = sources_of(run, stage)
    missing = num_missing(sources, problems) if sources else len(problems)
    spent = seconds = None
    if missing:  # else what is there is judged or selected, which no manifest tells the time of
        work = _work(stage, near)
        spent, seconds = expected(run, work, missing), seconds_left(run, work, missing)
    if sources:
        done = {"nothing": "taken from", "selection": "selected again from"}
        what = done.get(sources[0].renew, "judged again from")
        asked = f"asked for the others: {cost(recipe, missing)}" if missing else "not asked"
        where = sources[0].folder.relative_to(run)
        parts = [f"new, {what} {where}: {why}; the teacher is {asked}", words(spent, recipe.pools)]
    else:
        parts = [f"new: {why}", cost(recipe, len(problems)), words(spent, recipe.pools)]
    text = "; ".join(filter(None, parts))
    return Line(stage.name, text, is_new=bool(missing), seconds=seconds, spent=spent)


def _training_lines(
    recipe: Recipe,
    run: Place,
    student: StudentSpec,
    train: ProblemFile,
    trials: dict[str, list[Trial]],
) -> Iterator[Line]:
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
        yield _line(recipe, run, stage, len(train), "groups")
    for training in student.trainings:
        stage = Stages(recipe, run).training(training, train)
        yield _line(recipe, run, stage, steps, "steps")
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


def _line(recipe: Recipe, run: Place, stage: Stage, amount: int = 0, of_what: str = "") -> Line:
    """Where a stage stands; of one that is not done, so many rows or steps at most, if said."""
    found = find(run, stage)
    if found:
        folder = found.folder.relative_to(run)
        if found.is_complete:
            return Line(stage.name, f"reused  {folder}", is_done=True, folder=folder)
        facts = [f"begun  {folder}", _so_far(found.folder)]
        done = num_done(found.folder)
        seconds = seconds_left(run, _work(stage), amount, done) if amount else None
        facts += [f"about {duration(seconds)} left"] if seconds is not None else []
        text = "; ".join(filter(None, facts))
        return Line(stage.name, text, is_begun=True, seconds=seconds, folder=folder)
    near = nearest(run, stage)
    parts = [f"new: {'; '.join(map(str, near[1])) if near else UNCHANGED}"]
    if not amount:
        return Line(stage.name, parts[0])
    work = _work(stage, near)
    spent, seconds = expected(run, work, amount), seconds_left(run, work, amount)
    parts += [f"at most {amount:,} {of_what}", words(spent, recipe.pools)]
    text = "; ".join(filter(None, parts))
    return Line(stage.name, text, is_new=True, seconds=seconds, spent=spent)


def _work(stage: Stage, near: tuple[Made, list[Change]] | None = None) -> Work:
    return Work(stage.kind, stage.sections, near[0] if near else None)


def _so_far(folder: Place) -> str:
    """What is done of a stage that is begun."""
    if (folder / LOG).is_dir():
        number = num_done(folder)
        return "1 row is there" if number == 1 else f"{number:,} rows are there"
    if not (folder / METRICS).is_file():
        return ""
    written = (folder / METRICS).read_text()
    lines = written.rpartition("\n")[0].splitlines()  # the last may be half written
    return f"{len(lines)} steps, loss {json.loads(lines[-1])['train/loss']:.4g}" if lines else ""
