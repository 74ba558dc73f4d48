"""The students of a recipe, from the groups that generate.py committed in the same run folder."""

from fastdistill_ray.run.driver import Job, main
from fastdistill_ray.run.needed import check_groups
from fastdistill_ray.run.pipeline import (
    add_problems,
    choose_students,
    prepare_problems,
    train_students,
)
from fastdistill_ray.run_files import STUDENTS


def train(job: Job) -> None:
    run = job.run
    check_groups(run)
    problems = prepare_problems(run)
    job.check(problems)
    problems = add_problems(run, problems)
    trials = train_students(run, problems["train"])
    for name in choose_students(run, trials, problems["validation"]):
        print(run.view / STUDENTS / name)


if __name__ == "__main__":
    main(train)
