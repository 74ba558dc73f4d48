"""Counts of a store: verdicts, failures, and the count law of its stage."""

from collections import Counter

from fastdistill_ray.endpoints.ledger import paid_in
from fastdistill_ray.errors import UserError
from fastdistill_ray.groups.store import Store
from fastdistill_ray.rewards.assess import UNDECIDED
from fastdistill_ray.rewards.scorer import LLM_JUDGE
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import open_parquet

FEWEST_JUDGED = 200  # completions a share of failures is taken of, so that a few mean nothing


JUDGED_AGAIN = (
    "see it with 'fastdistill audit {run}'; then raise reward.max_failed_share, or mend the "
    "reward, and start again: the completions are judged again, the teacher is not asked for them "
    "again"
)

FOLLOWED = (
    "see it with 'fastdistill audit {run}'; then raise reward.max_failed_share and start again: a "
    "training has followed these groups, so that none is judged again; with a mended reward all are"
)


def check_failures(
    verdicts: Counter[str], max_share: float, store: Store, remedy: str = JUDGED_AGAIN
) -> None:
    """UserError when too many of a store's completions could not be judged; `remedy`: what
    helps."""
    total = verdicts.total()
    failed = sum(verdicts[verdict] for verdict in UNDECIDED)
    if failed <= max_share * max(total, FEWEST_JUDGED):
        return
    reasons = _failure_reasons(store).most_common(1)
    raise UserError(
        f"reward.max_failed_share: {failed} of {total} completions ({failed / total:.1%}) have "
        f"verdict error or timeout, more than {max_share:.1%}"
        + "".join(f"; the most frequent reason, {n} times: {text}" for text, n in reasons)
        + f". What is committed stays: {remedy.format(run=store.folder.parent.parent.parent)}"
    )


def count_verdicts(store: Store) -> Counter[str]:
    verdicts: Counter[str] = Counter()
    for commit in store.commits():
        verdicts.update(commit.verdicts)
    return verdicts


def _failure_reasons(store: Store) -> Counter[str]:
    reasons: Counter[str] = Counter()
    columns = [f"completions.list.element.{name}" for name in ("verdict", "reason")]
    for commit in store.commits():
        with open_parquet(store.folder / commit.file) as file:
            groups = file.read(columns=columns)["completions"].to_pylist()
        for group in groups:
            reasons.update(
                " ".join(one["reason"].split())[:160]
                for one in group
                if one["verdict"] in UNDECIDED
            )
    return reasons


def store_result(store: Store, num_problems: int, set_aside: dict[str, int]) -> StageResult:
    """The count law of a store; `set_aside` are problems that are not in it."""
    reasons: Counter[str] = Counter()
    prompt_tokens = completion_tokens = reused = 0
    cost = 0.0
    for commit in store.commits():
        reasons.update(commit.dropped)
        if commit.taken_from:
            reused += commit.num_tokens
            continue
        prompt_tokens += commit.prompt_tokens
        completion_tokens += commit.num_tokens
        cost += commit.cost
    kept = reasons.pop("", 0)
    lost = dict(reasons) | set_aside
    if not kept:
        raise UserError(
            f"no group of {reasons.total()} was kept ({lost}); look at the completions in "
            f"{store.folder} and at teacher.prompt, reward.verifier and selection"
        )
    sums = {"cost": cost, "reused_completion_tokens": reused}
    return StageResult(
        rows_in=num_problems,
        rows_out=kept,
        set_aside=lost,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        facts={
            **{name: value for name, value in sums.items() if value},
            **paid_facts("teacher", store.folder),
            **paid_facts("judge", store.folder / LLM_JUDGE),
        },
    )


def paid_facts(who: str, folder: Place) -> dict[str, float]:
    """Money of all answers, kept or not, and how many did not tell what they cost; of what is 0,
    nothing."""
    paid = paid_in(folder)
    facts = {f"{who}_paid": paid.cost, f"{who}_answers_untold": paid.untold}
    return {name: value for name, value in facts.items() if value}
