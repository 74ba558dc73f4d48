"""Baselines and trained students of a run on its test problems; writes results.json."""

from fastdistill_ray.run.driver import Job, main
from fastdistill_ray.run.needed import check_trainings
from fastdistill_ray.run.pipeline import (
    add_problems,
    choose_students,
    evaluate_models,
    prepare_problems,
    train_students,
)
from fastdistill_ray.run_files import RESULTS


def evaluate(job: Job) -> None:
    run = job.run
    check_trainings(run)
    problems = prepare_problems(run)
    job.check(problems)
    problems = add_problems(run, problems)
    trials = train_students(run, problems["train"])
    chosen = choose_students(run, trials, problems["validation"])
    evaluate_models(run, chosen, [problems["test"], problems["ood"]])
    print(run.view / RESULTS)


if __name__ == "__main__":
    main(evaluate)
