"""The stages of a box of tools in its run folder. Read jobs/box.py first."""

from typing import Any

import ray

from fastdistill_ray.agents.answering import answer_with_box, box_here, prompt_without
from fastdistill_ray.agents.box import load_box, make_box
from fastdistill_ray.agents.knobs import LimitKnobs
from fastdistill_ray.agents.report import write_box_report
from fastdistill_ray.agents.traces import asked_texts, scripted_texts, write_traces
from fastdistill_ray.cluster.pools import PoolsKnobs
from fastdistill_ray.endpoints.client import check_server
from fastdistill_ray.errors import UserError
from fastdistill_ray.evaluation.answers import evaluate
from fastdistill_ray.evaluation.knobs import EvaluationKnobs, Model
from fastdistill_ray.evaluation.results import clusters_of
from fastdistill_ray.generation.knobs import EngineKnobs
from fastdistill_ray.models import (
    check_architecture,
    context_length,
    fetch_without_weights,
    model_identity,
    tokenizer_of,
)
from fastdistill_ray.prompts import PromptKnobs, check_prompt
from fastdistill_ray.recipe.box import BoxRecipe
from fastdistill_ray.records import Split
from fastdistill_ray.run.doctor import check_shared_folder
from fastdistill_ray.run.driver import AnyJob
from fastdistill_ray.run.folder import JobFolder
from fastdistill_ray.run.graph import Stage
from fastdistill_ray.run.inputs import write_tasks
from fastdistill_ray.run.placement import shortage
from fastdistill_ray.run.stages import PROBLEMS, dataset_identity
from fastdistill_ray.run_files import BOX, BOX_REPORT, StageResult
from fastdistill_ray.storage.folders import copy
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile
from fastdistill_ray.verifiers import VerifierKnobs

Run = JobFolder[BoxRecipe]
Problems = dict[Split, ProblemFile]


def prepare_problems(run: Run) -> Problems:
    """Training and test problems of all tasks."""
    tasks = run.recipe.tasks
    inputs = {f"tasks.{place}.path": dataset_identity(task) for place, task in enumerate(tasks)}
    folder = run.stage(Stage("problems", "", {"tasks": tasks}, inputs), write_tasks, tasks)
    splits: tuple[Split, ...] = ("train", "test")
    files: Problems = {split: ProblemFile(folder / f"{split}.parquet") for split in splits}
    for split, file in files.items():
        if not len(file):
            raise UserError(f"tasks: they have no {split} problems; set num_{split} of one")
    return files


def check(job: AnyJob[Run]) -> None:
    """What can be known to fail before an engine starts; then the folder is this recipe's."""
    recipe, pools = job.run.recipe, job.run.recipe.pools
    student, teacher = recipe.student, recipe.teacher
    _check_model("student", student.model, student.prompt, "answers", recipe.answers.engine)
    if teacher.endpoint:
        check_server("teacher.engine", "teacher.model", teacher.model, teacher.endpoint)
    elif isinstance(teacher.engine, EngineKnobs) and not recipe.is_scripted:
        _check_model("teacher", teacher.model, teacher.prompt, "teacher", teacher.engine)
    used = (
        {"evaluation": pools.evaluation}
        if recipe.is_scripted
        else {
            "evaluation": pools.evaluation,
            "teacher": pools.teacher,
        }
    )
    for name, pool in used.items() if not pools.autoscaling else ():
        at_once = {name: pool, "judges": pools.judges}
        if line := shortage(at_once, ray.cluster_resources()):
            raise UserError(line)
    check_shared_folder(job.run.path)
    job.claim()


def _check_model(
    section: str, model: str, prompt: PromptKnobs, asked_in: str, engine: EngineKnobs
) -> None:
    folder = fetch_without_weights(model)
    check_architecture(folder)
    check_prompt(f"{section}.model", model, tokenizer_of(model), prompt)
    if engine.max_model_len > (longest := context_length(folder)):
        raise UserError(
            f"{asked_in}.engine.max_model_len: {engine.max_model_len} is more than the context of "
            f"{section}.model {model}, {longest}"
        )


def write_programs(run: Run, problems: Problems) -> Place:
    """The teacher's programs for the training problems, run and judged."""
    recipe, train = run.recipe, problems["train"]
    limits = LimitKnobs(**{name: getattr(recipe.tools, name) for name in LimitKnobs.model_fields})
    sections: dict[str, Any] = {"tools": limits, "verifier": recipe.verifier}
    if recipe.is_scripted:
        sections["writing"] = recipe.writing
        stage = Stage("traces", "", sections, {PROBLEMS: train.digest})
        texts = scripted_texts(train, recipe.writing)
    else:
        written = _ask_teacher(run, train)
        stage = Stage("traces", "", sections, {"programs": written.name})
        texts = asked_texts(train, written)
    return run.stage(stage, write_traces, texts, limits, recipe.verifier)


def _ask_teacher(run: Run, train: ProblemFile) -> Place:
    recipe, teacher, writing = run.recipe, run.recipe.teacher, run.recipe.writing
    identity = f"endpoint:{teacher.model}" if teacher.is_remote else model_identity(teacher.model)
    sections = {"teacher.prompt": teacher.prompt, "teacher.engine": teacher.engine}
    sections |= {"writing": writing, "verifier": recipe.verifier}
    stage = Stage("programs", "", sections, {"teacher.model": identity, PROBLEMS: train.digest})
    knobs = EvaluationKnobs(**writing.model_dump())
    if isinstance(teacher.engine, EngineKnobs):
        knobs = knobs.model_copy(update={"engine": teacher.engine})
    model = Model("teacher", teacher.model, teacher.prompt, teacher.endpoint)
    # Whoever is evaluated writes in the pool of that name.
    pools = recipe.pools.model_copy(update={"evaluation": recipe.pools.teacher})
    held = [recipe.pools.teacher, recipe.pools.judges]
    return run.stage(stage, _asked, model, train, knobs, recipe.verifier, pools, pools=held)


def make_tools(run: Run, traces: Place) -> Place:
    """The box, also in the view; -> the stage's folder."""
    tools = run.recipe.tools
    folder = run.stage(
        Stage("box", "", {"tools": tools}, {"traces": traces.name}), make_box, traces, tools
    )
    copy(folder / BOX, run.view / BOX)
    return folder


def answer(run: Run, problems: Problems, box: Place) -> tuple[Place, Place]:
    """The student's answers to the test problems, without and with the box."""
    return _without_box(run, problems["test"], box), _with_box(run, problems["test"], box)


def _without_box(run: Run, test: ProblemFile, box: Place) -> Place:
    recipe, answers, student = run.recipe, run.recipe.answers, run.recipe.student
    plain = {name: getattr(answers, name) for name in EvaluationKnobs.model_fields}
    knobs = EvaluationKnobs(**plain)
    inputs = {"student.model": model_identity(student.model), PROBLEMS: test.digest}
    if answers.examples:  # are those of its tools
        inputs["box"] = box.name
    sections = {"answers": knobs, "student.prompt": student.prompt, "verifier": recipe.verifier}
    stage = Stage("answers", "without_box", sections, inputs)
    prompt = prompt_without(student, load_box(box_here(box / BOX)), answers)
    model = Model(stage.label, student.model, prompt)
    held = [recipe.pools.evaluation, recipe.pools.judges]
    asked = (model, test, knobs, recipe.verifier, recipe.pools)
    return run.stage(stage, _asked, *asked, pools=held)


def _with_box(run: Run, test: ProblemFile, box: Place) -> Place:
    recipe, answers, student = run.recipe, run.recipe.answers, run.recipe.student
    inputs = {"student.model": model_identity(student.model), PROBLEMS: test.digest}
    inputs["box"] = box.name
    sections = {"answers": answers, "student.prompt": student.prompt, "verifier": recipe.verifier}
    stage = Stage("answers", "with_box", sections, inputs)
    held = [recipe.pools.evaluation, recipe.pools.judges]
    asked = (student, box / BOX, test, answers, recipe.verifier, recipe.pools)
    return run.stage(stage, answer_with_box, *asked, pools=held)


def _asked(
    model: Model,
    problems: ProblemFile,
    knobs: EvaluationKnobs,
    verifier: VerifierKnobs,
    pools: PoolsKnobs,
    *,
    out: Place,
) -> StageResult:
    return evaluate([model], [problems], knobs, verifier, pools, out={model.name: out})[model.name]


def report(run: Run, traces: Place, box: Place, answers: tuple[Place, Place]) -> str:
    """box.json and box.md; -> the latter's text."""
    tested = ProblemFile(run.path / run.graph["problems"] / "test.parquet")
    write_box_report(traces, box, *answers, clusters_of(tested), out=run.view)
    return (run.view / BOX_REPORT).read_text()
