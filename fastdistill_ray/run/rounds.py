"""A training whose student writes what it is trained on: both go on side by side in one stage.

The student's texts lie in the stage's own folder, beside the weights that wrote them. Who writes
waits for the weights of its round, who trains for the texts of its step.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import pyarrow.compute as pc

from fastdistill_ray.cluster.pools import PoolKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.accounting import paid_facts
from fastdistill_ray.groups.shares import Rise, Shares
from fastdistill_ray.groups.steps import Rounds, StepPlan
from fastdistill_ray.groups.store import FAILED, Store
from fastdistill_ray.recipe.derived import Training, judging_of_rounds
from fastdistill_ray.recipe.tree import Recipe
from fastdistill_ray.rewards.scorer import LLM_JUDGE
from fastdistill_ray.rounds.knobs import AdaptiveKnobs
from fastdistill_ray.rounds.policies import Policies
from fastdistill_ray.rounds.requests import RoundRequests, draw_requests
from fastdistill_ray.rounds.write import Closed, Writing, write_rounds
from fastdistill_ray.run.graph import Made
from fastdistill_ray.run_files import MANIFEST, POLICIES, StageResult, write_text
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile
from fastdistill_ray.training.job import TrainJob, train

logger = logging.getLogger(__name__)
GROUPS = "groups"  # in the training's folder
MOST_TABLES = 100  # of a store, enough for a share
CLOSING_SECONDS = 60.0


class Written(NamedTuple):
    """What a training in rounds needs beside its job."""

    writing: Writing
    requests: RoundRequests
    policies: Policies
    plan: StepPlan


def plan_rounds(
    recipe: Recipe,
    training: Training,
    problems: ProblemFile,
    *,
    start: str,
    mixed: Place | None,
    taught: float | None,
    out: Place,
) -> Written:
    """`start`: the weights that the student begins with; `mixed`: the groups of teachers, where it
    is trained on some; `taught`: the share of theirs that is right, where it is known."""
    student, knobs = training.student, recipe.training
    rounds = student.rounds
    assert rounds
    is_logged, engine = student.objective.needs.written, recipe.evaluation.engine
    policies = Policies(
        out / POLICIES, student.model, rounds.steps, rounds.staleness, rounds.max_cut, start, taught
    )
    per_step = rounds.num_own(knobs.groups_per_step)
    num_steps = student.most_steps(knobs, len(problems))
    sampling = rounds.sampling(recipe.sampling, is_logged=is_logged)
    requests = draw_requests(
        problems,
        num_steps * per_step,
        policies,
        recipe.student.prompt,
        training.seed,
        engine.max_model_len - sampling.max_new_tokens,
    )
    if not len(requests):
        raise UserError(
            "evaluation.engine.max_model_len: the prompts of all problems leave no room for "
            "sampling.max_new_tokens"
        )
    sizes = rounds.steps, num_steps, knobs.groups_per_step
    shares = shares_of(rounds.adaptive, policies, sizes, training.seed)
    plan = StepPlan(
        str(out / GROUPS),
        knobs.groups_per_step,
        epochs=1,
        max_steps=None,
        seed=training.seed,
        follow=True,
        held_out=knobs.held_out.share if shares else 0.0,
        rounds=Rounds(
            num_steps,
            per_step,
            str(mixed) if mixed else "",
            rounds.num_mixed(knobs.groups_per_step),
            is_logged,
            shares,
        ),
    )
    pools, judging = recipe.pools, judging_of_rounds(recipe)
    many = pools.of_writer, pools.judges, pools.stall_minutes
    writing = Writing(engine, sampling, judging, *many, per_step, shares)
    return Written(writing, requests, policies, plan)


def shares_of(
    knobs: AdaptiveKnobs | None, policies: Policies, sizes: tuple[int, int, int], seed: int
) -> Shares | None:
    """`sizes`: updates of a round, of the training, and groups of an update."""
    if knobs is None:
        return None
    return Shares(str(policies.folder), *sizes, seed, Rise(knobs.rise, knobs.tolerance))


def share_right(groups: Made | None) -> float | None:
    """Of the texts of complete groups; None where these are not there."""
    if groups is None or not groups.is_complete:
        return None
    right = total = 0
    for table in islice(Store(groups.folder).tables(["completions"]), MOST_TABLES):
        verdicts = pc.struct_field(pc.list_flatten(table["completions"]), "verdict")
        right += pc.sum(pc.equal(verdicts, "correct")).as_py() or 0
        total += len(verdicts)
    return right / total if total else None


def train_in_rounds(job: TrainJob, written: Written, pool: PoolKnobs, *, out: Place) -> StageResult:
    """As `train`; its result also counts what the student has written, and the problems of which
    it can write nothing."""
    if num_too_long := written.requests.num_too_long:
        logger.warning(
            "%d of %d training problems are not written of: their prompts leave no room for "
            "sampling.max_new_tokens; raise evaluation.engine.max_model_len",
            num_too_long,
            len(written.requests.problems),
        )
    with writer(written, out / GROUPS):
        result = train(job, pool, out=out)
    count_written(result, [out / GROUPS])
    result.facts.update({"prompt_too_long": num_too_long} if num_too_long else {})
    result.facts.update(paid_facts("judge", out / GROUPS / LLM_JUDGE))
    return result


def count_written(result: StageResult, texts: list[Place]) -> None:
    """Adds to a training's result what students have written for it, in these stores."""
    commits = [commit for store in texts for commit in Store(store).commits()]
    result.facts["written_tokens"] = sum(commit.num_tokens for commit in commits)
    result.facts["written_prompt_tokens"] = sum(commit.prompt_tokens for commit in commits)


def num_written(store: Place) -> int:
    """Tokens of all texts in a store."""
    return sum(commit.num_tokens for commit in Store(store).commits())


@contextmanager
def writer(written: Written, groups: Place) -> Iterator[None]:
    """Texts are written while the block runs; what stopped the writer is raised in place of what
    that made of the block."""
    closed = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            write_rounds(written.writing, written.requests, groups, closed)
        except Closed:
            pass
        except BaseException as error:  # noqa: BLE001  raised by the other thread, which follows
            failures.append(error)
            write_text(groups / FAILED, f"{type(error).__name__}: {error}")

    (groups / FAILED).unlink()
    (groups / MANIFEST).unlink()  # a request that is asked again makes the store grow once more
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
        if written.writing.shares:
            closed.set()  # it may write more, and nobody asks for it
        thread.join()  # all texts of a training that is done are there
    except Exception:
        closed.set()
        thread.join(CLOSING_SECONDS)  # it may wait for an engine that does not come
        if failures:
            raise failures[0] from None
        raise
    finally:
        closed.set()  # told to stop, this process ends with the thread
    if failures:
        raise failures[0]
