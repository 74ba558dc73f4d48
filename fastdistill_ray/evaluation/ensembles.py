"""Several models' answers -> those that most of them give, as answers of a model of its own.

No model is asked again. Born-again networks (arXiv 1805.04770, section 3.1) average the
probabilities of generations; of texts it is the answer that is voted on.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from fastdistill_ray.evaluation.answers import ANSWERS_SCHEMA
from fastdistill_ray.rewards.assess import ToScore
from fastdistill_ray.rewards.voting import ANY, hold_vote
from fastdistill_ray.run_files import ANSWERS, StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet, write_parquet
from fastdistill_ray.verifiers import Judge, VerifierKnobs

Key = tuple[str, int]  # problem, number of the answer


def vote(members: list[Place], verifier: VerifierKnobs, *, out: Place) -> StageResult:
    """Writes answers.parquet: for each answer that every member gave, the text of the first member
    whose answer is that of most; of the first member where as many give another, and where no
    answer can be read or compared. Its rows in and out are problems, as those of all answers."""
    answers = [_rows(folder) for folder in members]
    common = [key for key in answers[0] if all(key in one for one in answers)]
    with Judge(verifier) as judge:
        found = [_elected([one[key] for one in answers], judge) for key in common]
    write_parquet(pa.Table.from_pylist(found, schema=ANSWERS_SCHEMA), out / ANSWERS)
    num_voted = len(_problems(common))
    missing = max(len(_problems(one)) for one in answers) - num_voted
    return StageResult(
        rows_in=num_voted + missing,
        rows_out=num_voted,
        set_aside={"not_answered": missing} if missing else {},
    )


def _rows(folder: Place) -> dict[Key, dict[str, Any]]:
    rows = read_parquet(folder / ANSWERS).to_pylist()
    return {(row["problem_id"], row["k"]): row for row in rows}


def _problems(keys: Iterable[Key]) -> set[str]:
    return {problem for problem, _ in keys}


def _elected(rows: list[dict[str, Any]], judge: Judge) -> dict[str, Any]:
    if rows[0]["kind"] not in ANY:
        return rows[0]
    group = ToScore.of(rows[0], rows)
    judgements = hold_vote(group, judge).judgements
    agree = [place for place, one in enumerate(judgements) if one.verdict == "correct"]
    return rows[agree[0] if agree else 0]
