"""Whether the problems of a recipe can be had, found out before a cluster is asked; their files.

What lies in files is read whole; what is made is made for a few; of what lies on the hub only the
name is known here.
"""

from fastdistill_ray.errors import UserError
from fastdistill_ray.recipe.box import BoxRecipe
from fastdistill_ray.recipe.tree import AnyRecipe
from fastdistill_ray.records import SPLITS, Problem, Split
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks import TaskKnobs, check_name, decontaminated, hub_of, load_problems
from fastdistill_ray.tasks.base import Problems, asked, check_problems
from fastdistill_ray.tasks.problem_file import write_problems
from fastdistill_ray.verifiers import Judge, VerifierKnobs

FEW = 8


def check_task(knobs: TaskKnobs) -> None:
    """UserError where the job would end with it, of a task whose files are on this machine."""
    check_name("task.name", knobs.name)
    if knobs.ood:
        check_name("task.ood.name", knobs.ood.name)
    is_ood_on_hub = knobs.ood is not None and not knobs.ood.path and hub_of(knobs.ood.name)
    if not knobs.path and hub_of(knobs.name):
        return
    if is_ood_on_hub:
        knobs = knobs.model_copy(update={"ood": None, "num_ood": None})
    if not knobs.path:
        few = {name: _few(getattr(knobs, name)) for name in ("num_train", "num_test", "num_ood")}
        knobs = knobs.model_copy(update={**few, "num_validation": _few(knobs.num_validation)})
    problems = decontaminated(load_problems(knobs), knobs)
    with Judge(VerifierKnobs()) as judge:
        check_usable(knobs, problems, judge)


def check_files(recipe: AnyRecipe) -> None:
    """Of what is no distillation: what it names on this machine holds what it needs."""
    recipe.check_files()
    for task in recipe.tasks if isinstance(recipe, BoxRecipe) else ():
        check_task(task)


def check_usable(knobs: TaskKnobs, problems: Problems, judge: Judge) -> None:
    """UserError where no problem of a split has a reference that an answer can be held against."""
    for split, members in problems.items():
        if split == "train" and knobs.unlabelled:
            continue
        faults = (_fault(judge, problem) for problem in members)
        if members and all(faults):  # ends at the first that has one
            first = members[0]
            raise UserError(
                f"task {knobs.path or knobs.name}: none of the {len(members)} {split} problems can "
                f"be judged, such as {first.problem_id}: {_fault(judge, first)}; mend the answers, "
                "or task.kind"
            )


def write_tasks(tasks: list[TaskKnobs], *, out: Place) -> StageResult:
    """The problems of all of them, split by split, without those that cannot be judged."""
    num_in = num_out = overlaps = 0
    usable: Problems = {split: [] for split in SPLITS}
    with Judge(VerifierKnobs()) as judge:
        for task in tasks:
            loaded = load_problems(task)
            check_usable(task, loaded, judge)
            clean = decontaminated(loaded, task)
            overlaps += sum(len(loaded[split]) - len(clean[split]) for split in SPLITS)
            for split, problems in clean.items():
                kept = [
                    problem
                    for problem in problems
                    if (task.unlabelled and not problem.reference) or not _fault(judge, problem)
                ]
                num_in, num_out = num_in + len(problems), num_out + len(kept)
                usable[split] += kept
    asked_again = _drop_asked_in_evaluation(usable)  # of another task
    num_in, num_out = num_in - asked_again, num_out - asked_again
    overlaps += asked_again
    check_problems(usable, is_unlabelled=any(task.unlabelled for task in tasks))  # of all together
    for split, problems in usable.items():
        write_problems(problems, out / f"{split}.parquet")
    left = {"reference_unusable": num_in - num_out, "overlaps_test": overlaps}
    dropped = {why: number for why, number in left.items() if number}
    return StageResult(num_in + overlaps, num_out, dropped)


def _drop_asked_in_evaluation(problems: Problems) -> int:
    """Of all tasks together; -> how many training and validation problems left."""
    num_dropped = 0
    tested: list[Split] = ["test", "ood"]
    order: list[tuple[Split, list[Split]]] = [
        ("validation", tested),
        ("train", ["validation", *tested]),
    ]
    for split, later in order:
        evaluated = {asked(problem) for other in later for problem in problems[other]}
        kept = [problem for problem in problems[split] if asked(problem) not in evaluated]
        num_dropped += len(problems[split]) - len(kept)
        problems[split] = kept
    return num_dropped


def _fault(judge: Judge, problem: Problem) -> str:
    return judge.reference_error(problem.kind, problem.reference, problem.options)


def _few(count: int | None) -> int | None:
    return None if count is None else min(count, FEW)
