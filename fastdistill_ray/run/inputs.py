"""Whether the problems of a recipe can be had, found out before a cluster is asked.

What lies in files is read whole; what is made is made for a few; of what lies on the hub only the
name is known here.
"""

from fastdistill_ray.errors import UserError
from fastdistill_ray.records import Problem
from fastdistill_ray.tasks import TaskKnobs, check_name, decontaminated, hub_of, load_problems
from fastdistill_ray.tasks.base import Problems
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


def _fault(judge: Judge, problem: Problem) -> str:
    return judge.reference_error(problem.kind, problem.reference, problem.options)


def _few(count: int | None) -> int | None:
    return None if count is None else min(count, FEW)
