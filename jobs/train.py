"""The students of a recipe, from the groups that generate.py committed in the same run folder."""

from fastdistill_ray.run.driver import Job, main
from fastdistill_ray.run.pipeline import choose_students, prepare_problems, train_students


def train(job: Job) -> None:
    if not job.run.is_complete("groups"):
        raise ValueError(
            f"--run-dir {job.run.path}: its groups are not complete; run generate first"
        )
    problems = prepare_problems(job.recipe, job.run)
    job.check(problems)
    trials = train_students(job.recipe, job.run, len(problems["train"]))
    for name in choose_students(job.recipe, job.run, trials, problems["validation"]):
        print(job.run.path / "students" / name)


if __name__ == "__main__":
    main(train)
