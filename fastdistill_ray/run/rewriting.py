"""The stage that makes a student's own texts of a writer's groups (`groups/rewriting.py`)."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from fastdistill_ray.cluster.pools import PoolsKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import EndpointKnobs, SamplingKnobs, TeacherKnobs
from fastdistill_ray.generation.requests import build_requests, split_by_length
from fastdistill_ray.groups.accounting import paid_facts
from fastdistill_ray.groups.curation import curate
from fastdistill_ray.groups.rewriting import (
    REWRITTEN,
    RewriteKnobs,
    asked_again,
    chosen_texts,
    final_of,
)
from fastdistill_ray.groups.store import Store
from fastdistill_ray.models import tokenizer_of
from fastdistill_ray.records import GROUP_SCHEMA, SIGNALS, Problem, Verdict
from fastdistill_ray.rewards.scorer import LLM_JUDGE
from fastdistill_ray.rewards.selection import Judging, select
from fastdistill_ray.run_files import StageResult
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems
from fastdistill_ray.verifiers import Judge

FIRST, AGAIN = "first_answers", "rewritten_answers"  # folders of what the student is asked
ROWS_PER_FILE = 64
RIGHT = "right_"  # facts: answers of each sort that the problems' own answers confirm


@dataclass(frozen=True)
class Rewriting:
    """Who answers anew, and how its texts are looked at; verdicts are for the report alone."""

    student: TeacherKnobs
    knobs: RewriteKnobs
    sampling: SamplingKnobs
    judging: Judging
    pools: PoolsKnobs

    def ask(self, problems: list[Problem], out: Place) -> dict[str, dict]:
        """The student's one answer to each problem whose prompt leaves room for it, by its id."""
        problems = self._fitting(problems) if problems else []
        if not problems:
            return {}
        write_problems(problems, out / "problems.parquet")
        file = ProblemFile(out / "problems.parquet")
        curate(file, [self.student], self.sampling, self.judging, self.pools, [], out=out)
        return {row["problem_id"]: row for row in _rows(out)}

    def _fitting(self, problems: list[Problem]) -> list[Problem]:
        engine, tokenizer = self.student.engine, tokenizer_of(self.student.model)
        assert not isinstance(engine, EndpointKnobs), "a student is no endpoint"
        room = engine.max_model_len - self.sampling.max_new_tokens
        rows = build_requests(problems, self.student.prompt, tokenizer, self.sampling.seed)
        fit = {row["problem_id"] for row in split_by_length(rows, room)[0]}
        return [one for one in problems if one.problem_id in fit]


def greedy(recipe: SamplingKnobs) -> SamplingKnobs:
    """One likeliest answer to a problem."""
    return SamplingKnobs(
        n=1,
        temperature=0.0,
        max_new_tokens=recipe.max_new_tokens,
        loop_repeats=recipe.loop_repeats,
        max_set_aside=recipe.max_set_aside,
    )


def rewrite(
    written: Place, problems: ProblemFile, rewriting: Rewriting, *, out: Place
) -> StageResult:
    """A store of one completion of each problem: the writer's own where it is sure, else what the
    student makes of it. UserError where none is left."""
    knobs, judging = rewriting.knobs, rewriting.judging
    groups = {row["problem_id"]: row for row in _rows(written)}
    with Judge(judging.reward.verifier) as judge:
        finals = {key: final_of(row, judge) for key, row in groups.items()}
        unsure = {key: one for key, one in finals.items() if one and not one.is_sure}
        doubted = [one for one in problems if one.problem_id in unsure]
        first = rewriting.ask(doubted, out / FIRST)
        asked = [
            asked_again(
                one,
                first[one.problem_id]["completions"][0]["text"],
                groups[one.problem_id],
                unsure[one.problem_id],
                knobs,
            )
            for one in doubted
            if first.get(one.problem_id, {}).get("completions")
        ]
        again = rewriting.ask(asked, out / AGAIN)
        rows, sources, left = chosen_texts(groups.values(), finals, again, knobs)
    if not rows:
        raise UserError(
            f"compare.students: the writer's answers leave nothing to be trained on ({dict(left)});"
            " draw more (sampling.n), or raise evaluation.engine.max_model_len: a student gives no "
            "answer where its prompt, with other answers in it, leaves no room for "
            "sampling.max_new_tokens"
        )
    _write(Store(out), [select(row, judging.selection, judging.advantage) for row in rows])
    facts = {name: float(number) for name, number in sources.items()}
    facts |= _right("first", first.values()) | _right(REWRITTEN, again.values())
    facts |= _right("writer", ({**r, "completions": _final(r, finals)} for r in groups.values()))
    facts |= _paid(out)
    tokens = [one for row in (*first.values(), *again.values()) for one in row["completions"]]
    return StageResult(
        len(groups),
        len(rows),
        dict(left),
        prompt_tokens=sum(row["prompt_num_tokens"] for row in (*first.values(), *again.values())),
        completion_tokens=sum(one["num_tokens"] for one in tokens),
        facts=facts,
    )


def _paid(out: Place) -> dict[str, float]:
    """To the judge, for both answers of the student."""
    paid = [paid_facts("judge", out / name / LLM_JUDGE) for name in (FIRST, AGAIN)]
    names = dict.fromkeys(name for one in paid for name in one)
    return {name: sum(one.get(name, 0.0) for one in paid) for name in names}


def _final(row: dict, finals: dict) -> list[dict]:
    final = finals[row["problem_id"]]
    return [row["completions"][final.place]] if final else []


def _right(name: str, rows: Iterable[dict]) -> dict[str, float]:
    """How many have a completion and an answer to tell by, and of how many it is right."""
    found = [_by_reference(row) for row in rows if row["completions"]]
    verdicts = [verdict for verdict in found if verdict is not None]
    return {
        f"{RIGHT}{name}": float(verdicts.count("correct")),
        f"all_{name}": float(len(verdicts)),
    }


def _by_reference(row: dict) -> Verdict | None:
    """Of a row of one completion, beside the problem's own answer; None where it has none. The
    completion's own verdict by a vote would be that it agrees with itself."""
    vote = row["vote"]
    if vote is None or (row["reference"] and not vote["answer"]):
        return row["completions"][0]["verdict"]
    return vote["verdict"]


def _rows(groups: Place) -> list[dict]:
    names = [name for name, _ in SIGNALS]
    tables = Store(groups).tables()
    return [row for table in tables for row in table.drop_columns(names).to_pylist()]


def _write(store: Store, rows: list[dict]) -> None:
    store.begin()
    done = set(store.keys())
    missing = [row for row in rows if row["problem_id"] not in done]
    for start in range(0, len(missing), ROWS_PER_FILE):
        part = missing[start : start + ROWS_PER_FILE]
        store.append([store.write(pa.Table.from_pylist(part, schema=GROUP_SCHEMA))])
