"""A job that generates and trains side by side and stops there."""

from fastdistill_ray.run.driver import Job, main
from fastdistill_ray.run.pipeline import generate_and_train, prepare_problems


def run(job: Job) -> None:
    problems = prepare_problems(job.run)
    job.check(problems)
    generate_and_train(job.run, problems["train"])


if __name__ == "__main__":
    main(run)
