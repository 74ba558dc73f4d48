"""What a training is given: its groups, what is stored of their texts, the students before it."""

from fastdistill_ray.cluster.pools import PoolKnobs, PoolsKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.evaluation.results import Cost, Trial, trials_in
from fastdistill_ray.generation.knobs import SamplingKnobs, TeacherKnobs
from fastdistill_ray.groups.curation import curate
from fastdistill_ray.groups.reweighting import reselect
from fastdistill_ray.groups.steps import StoredSignals
from fastdistill_ray.groups.store import Store, wait_until_complete
from fastdistill_ray.models import vocabulary_of
from fastdistill_ray.prompts import Prompted
from fastdistill_ray.recipe.derived import (
    Training,
    former_student,
    is_writer,
    judging_by_writer,
    local_prompts,
    selection_of,
    speaker_of,
)
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards.selection import Judging, is_in
from fastdistill_ray.run.folder import RunFolder
from fastdistill_ray.run.rewriting import AGAIN, FIRST, Rewriting, greedy, rewrite
from fastdistill_ray.run.rounds import count_written, num_written
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.scoring.engine import ScoringSpec
from fastdistill_ray.scoring.requests import Texts
from fastdistill_ray.scoring.score import Scoring, score
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems
from fastdistill_ray.training.job import TrainJob, signal_facts, train


def trials_of(run: RunFolder, training: Training, problems: ProblemFile) -> list[Trial]:
    """The exported students of a finished training."""
    out, name = run.enter(run.stages.training(training, problems)), training.student.name
    before = _spent_before(run, training, problems)
    trials = trials_in(out, name, training.learning_rate, training.told_seed, before)
    begun = begun_as(run, training, problems)
    return [trial.after(begun) for trial in trials] if begun else trials


def _spent_before(run: RunFolder, training: Training, problems: ProblemFile) -> list[Cost]:
    """On the stores that a finished training was given: texts of students, and signals."""
    texts = texts_for(run, training, problems)
    found = [Cost(str(store), written_tokens=num_written(store)) for store in texts]
    if training.student.objective.needs.signal:
        signals = run.enter(run.stages.signals(training, problems))
        facts = signal_facts(Store(signals))
        tokens, size = (int(facts[name]) for name in ("signal_tokens", "signal_bytes"))
        found.append(Cost(str(signals), scored_tokens=tokens, signal_bytes=size))
    return found


def begun_as(run: RunFolder, training: Training, problems: ProblemFile) -> Trial | None:
    """The former student whose weights this one begins with, if any."""
    name = training.student.start
    return last_of(run, training, name, problems) if name else None


def last_of(run: RunFolder, training: Training, name: str, problems: ProblemFile) -> Trial:
    """A former student of the same learning rate and seed, as it was at its training's end."""
    return trials_of(run, training.of(former_student(run.recipe, name)), problems)[-1]


def groups_for(run: RunFolder, training: Training, problems: ProblemFile) -> Place:
    """The store a student is trained on: the recipe's, one that is selected from it, or one that a
    former student writes."""
    recipe, student = run.recipe, training.student
    if student.writer:
        written = _written_for(run, training, problems)
        return _rewritten_for(run, training, written, problems) if student.rewrite else written
    groups = run.enter(run.stages.groups(problems))
    if not student.has_own_selection:
        return groups
    wait_until_complete(Store(groups))
    stage = run.stages.groups_of(training, problems)
    return run.stage(stage, reselect, groups, selection_of(recipe, student), recipe.advantage)


def _written_for(run: RunFolder, training: Training, problems: ProblemFile) -> Place:
    recipe, student = run.recipe, training.student
    former = last_of(run, training, student.writer, problems)
    writer = TeacherKnobs(
        model=former.weights, prompt=recipe.student.prompt, engine=recipe.evaluation.engine
    )
    pools = _pools_of_writer(recipe)
    return run.stage(
        run.stages.written(training, problems),
        write_as_teacher,
        problems,
        student.problems,
        writer,
        recipe.sampling,
        judging_by_writer(recipe, student),
        pools,
        pools=pools.of_groups(1),
    )


def _pools_of_writer(recipe: Recipe) -> PoolsKnobs:
    return recipe.pools.model_copy(update={"teacher": recipe.pools.of_writer, "teachers": []})


def _rewritten_for(
    run: RunFolder, training: Training, written: Place, problems: ProblemFile
) -> Place:
    recipe, student = run.recipe, training.student
    assert student.rewrite
    begun = begun_as(run, training, problems)
    asked = TeacherKnobs(
        model=begun.weights if begun else student.model,
        prompt=recipe.student.prompt,
        engine=recipe.evaluation.engine,
    )
    pools = _pools_of_writer(recipe)
    rewriting = Rewriting(
        asked, student.rewrite, greedy(recipe.sampling), judging_by_writer(recipe, student), pools
    )
    stage = run.stages.groups_of(training, problems)
    return run.stage(stage, rewrite, written, problems, rewriting, pools=pools.of_groups(1))


def texts_for(run: RunFolder, training: Training, problems: ProblemFile) -> list[Place]:
    """The stores of all that students wrote for a training, once its groups are there."""
    student = training.student
    if not student.writer:
        return []
    written = run.enter(run.stages.written(training, problems))
    if not student.rewrite:
        return [written]
    own = run.enter(run.stages.groups_of(training, problems))
    return [written, *(own / name for name in (FIRST, AGAIN) if (own / name).is_dir())]


def write_as_teacher(
    problems: ProblemFile,
    part: tuple[float, float],
    writer: TeacherKnobs,
    sampling: SamplingKnobs,
    judging: Judging,
    pools: PoolsKnobs,
    *,
    out: Place,
) -> StageResult:
    """A store of groups of that part of the problems, by a former student."""
    file = out / "problems.parquet"
    write_problems([one for one in problems if is_in(part, one.problem_id)], file)
    if not len(asked := ProblemFile(file)):
        raise UserError(
            f"compare.students: the part {list(part)} of {len(problems)} training problems has "
            "none; take a larger one, or more problems"
        )
    return curate(asked, [writer], sampling, judging, pools, [], out=out)


def train_on_written(
    job: TrainJob, texts: list[Place], pool: PoolKnobs, *, out: Place
) -> StageResult:
    """As `train`; its result also counts what students have written for it, stores of `texts`."""
    result = train(job, pool, out=out)
    count_written(result, texts)
    return result


def signals_for(
    run: RunFolder, training: Training, groups: Place, problems: ProblemFile
) -> StoredSignals | None:
    """What is stored of the student's texts, where its objective learns from that."""
    recipe, student = run.recipe, training.student
    signal = student.objective.needs.signal
    if signal is None:
        return None
    wait_until_complete(Store(groups))
    speaker = speaker_of(recipe, student)
    assert speaker
    texts = Texts(
        Prompted(student.model, recipe.student.prompt),
        local_prompts(recipe),
        speaker.prompted,
        recipe.training.max_seq_len,
        recipe.sampling.seed,
        is_writer=is_writer(recipe, student, speaker),
    )
    pools = recipe.pools
    scoring = Scoring(
        pools.evaluation if signal.by == "student" else pools.of_scorer,
        pools.judges,
        recipe.sampling.max_set_aside,
        pools.stall_minutes,
    )
    vocabulary = vocabulary_of(student.model)
    spec = ScoringSpec(speaker.field, speaker.prompted.model, speaker.engine, signal, vocabulary)
    stage = run.stages.signals(training, problems)
    held = [scoring.pool, scoring.writers]
    folder = run.stage(stage, score, groups, texts, spec, scoring, pools=held)
    return StoredSignals(str(folder), signal)
