"""A box of tools (AgentDistill, arXiv 2506.14728): a teacher's tools in place of its weights.

problems -> programs that the teacher writes, run and judged -> functions of correct programs
         -> general, tested tools -> a student's answers without them and with them -> box.md

ray job submit --working-dir . -- python jobs/box.py jobs/recipes/box/mcp_box.yaml --run-dir RUN
"""

from fastdistill_ray.recipe.box import BoxRecipe
from fastdistill_ray.run.box import (
    answer,
    check,
    make_tools,
    prepare_problems,
    report,
    write_programs,
)
from fastdistill_ray.run.driver import AnyJob, main_of
from fastdistill_ray.run.folder import JobFolder


def box(job: AnyJob[JobFolder[BoxRecipe]]) -> None:
    run = job.run
    problems = prepare_problems(run)
    check(job)
    traces = write_programs(run, problems)
    tools = make_tools(run, traces)
    answers = answer(run, problems, tools)
    print(f"\n{report(run, traces, tools, answers)}")


if __name__ == "__main__":
    main_of(BoxRecipe, box)
