"""The stage that adds problems a teacher made (`tasks/new_problems.py`)."""

from fastdistill_ray.cluster.pools import PoolsKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import SamplingKnobs, TeacherKnobs
from fastdistill_ray.groups.curation import curate
from fastdistill_ray.groups.store import Store
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import Judging, SelectionKnobs
from fastdistill_ray.run.stages import NEW_TEXTS, TRAINING_FILE
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.new_problems import KINDS, NewProblemsKnobs, kept
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems

SOURCES = "sources.parquet"
# Problems are written, not answers: none needs a verdict, and their sources may have no reference.
UNJUDGED = Judging(
    RewardKnobs(reference="vote", max_failed_share=1.0),
    AdvantageKnobs(),
    SelectionKnobs(min_correct=0, min_size=1).model_copy(
        update={"min_votes": 0, "min_agreement": 0.0}
    ),
)


def write_new_problems(
    problems: ProblemFile,
    others: list[ProblemFile],
    teacher: TeacherKnobs,
    knobs: NewProblemsKnobs,
    sampling: SamplingKnobs,
    size: int,
    pools: PoolsKnobs,
    *,
    out: Place,
) -> StageResult:
    """A file of the training problems and the new ones; none of these is one of the `others`, or
    has `size` words in a row of them."""
    sources = {one.problem_id: one for one in problems if one.kind in KINDS}
    if not sources:
        raise UserError(
            "new_problems: what is made of a problem has no options and no data set that judges "
            f"it, and no training problem is of kind {', '.join(KINDS)}"
        )
    write_problems(list(sources.values()), out / SOURCES)
    drawn = sampling.model_copy(
        update={
            "n": knobs.n,
            "max_n": 0,
            "temperature": knobs.temperature,
            "temperatures": [],
            "max_new_tokens": knobs.max_new_tokens,
            "seed": knobs.seed,
            "logprobs": 0,
            "stop": [],
        }
    )
    alone = {"prompt": knobs.prompt, "prompts": [], "shot_orders": 1, "tasks": []}
    asked = teacher.model_copy(update=alone)
    result = curate(
        ProblemFile(out / SOURCES), [asked], drawn, UNJUDGED, pools, [], out=out / NEW_TEXTS
    )
    texts = (
        (sources[row["problem_id"]], [(c["text"], c["finish_reason"]) for c in row["completions"]])
        for table in Store(out / NEW_TEXTS).tables(["problem_id", "completions"])
        for row in table.to_pylist()
    )
    tested = [one for file in others for one in file]
    found, left = kept(texts, problems, tested, size)
    write_problems([*problems, *found], out / TRAINING_FILE)
    rows_in = len(problems) + len(found) + left.total()
    return StageResult(
        rows_in,
        len(problems) + len(found),
        dict(left),
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.completion_tokens,
        facts={
            **result.facts,
            "new": float(len(found)),
            "written": float(len(found) + left.total()),
        },
    )
