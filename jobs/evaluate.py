"""Baselines and trained students of a run on its test problems; writes results.json."""

from fastdistill_ray.run.driver import Job, main
from fastdistill_ray.run.pipeline import (
    choose_students,
    evaluate_models,
    prepare_problems,
    train_students,
)


def evaluate(job: Job) -> None:
    if missing := [stage for stage in job.training_stages() if not job.run.is_complete(stage)]:
        raise ValueError(f"--run-dir {job.run.path}: {missing[0]} is not complete; run train first")
    problems = prepare_problems(job.recipe, job.run)
    job.check(problems)
    trials = train_students(job.recipe, job.run, len(problems["train"]))
    chosen = choose_students(job.recipe, job.run, trials, problems["validation"])
    evaluate_models(job.recipe, job.run, chosen, [problems["test"], problems["ood"]])
    print(job.run.path / "results.json")


if __name__ == "__main__":
    main(evaluate)
