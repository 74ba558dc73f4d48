"""The whole method (AdvDistill, arXiv 2507.00054) on one screen: start reading here.

problems -> prompts -> n completions each -> verdicts, rewards, advantages -> groups
         -> students (FSDP2) -> answers to test problems -> report

    ray job submit --working-dir . -- python jobs/distill.py jobs/recipes/gsm8k.yaml --run-dir RUN
"""

from fastdistill_ray.report.sections import write_report
from fastdistill_ray.report.summary import summary
from fastdistill_ray.run.driver import Job, main
from fastdistill_ray.run.pipeline import (
    add_problems,
    choose_students,
    evaluate_models,
    generate_and_train,
    prepare_problems,
)


def distill(job: Job) -> None:
    run = job.run
    problems = prepare_problems(run)
    job.check(problems)
    problems = add_problems(run, problems)
    trials = generate_and_train(run, problems["train"])
    chosen = choose_students(run, trials, problems["validation"])
    evaluate_models(run, chosen, [problems["test"], problems["ood"]])
    write_report(run.view)
    print(f"\n{summary(run.view)}")


if __name__ == "__main__":
    main(distill)
