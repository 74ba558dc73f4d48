"""The teacher's judged groups of a recipe's training problems, in the run's store."""

from fastdistill_ray.run.driver import Job, main
from fastdistill_ray.run.pipeline import add_problems, generate_groups, prepare_problems


def generate(job: Job) -> None:
    problems = prepare_problems(job.run)
    job.check(problems)
    problems = add_problems(job.run, problems)
    print(generate_groups(job.run, problems["train"]))


if __name__ == "__main__":
    main(generate)
