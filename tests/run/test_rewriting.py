"""How many texts that a student rewrote are right, by the problems' own answers, and their cost."""

import pytest
from support.groups import make_completion, make_group, write_store

from fastdistill_ray.cluster.pools import PoolsKnobs
from fastdistill_ray.generation.knobs import SamplingKnobs, TeacherKnobs
from fastdistill_ray.groups.rewriting import RewriteKnobs
from fastdistill_ray.records import Problem
from fastdistill_ray.rewards import RewardKnobs
from fastdistill_ray.rewards.advantages import AdvantageKnobs
from fastdistill_ray.rewards.selection import Judging, SelectionKnobs
from fastdistill_ray.run.rewriting import Rewriting, _right, rewrite
from fastdistill_ray.storage.place import Place
from fastdistill_ray.tasks.problem_file import ProblemFile, write_problems

PRICED = '{"prompt": 7, "completion": 1, "cost": 0.25}\n'
UNTOLD = '{"untold": "broke off"}\n'


def row(verdict: str, reference: str = "1", vote: tuple[str, str | None] | None = None) -> dict:
    """One completion; `vote`: its answer, and the verdict on that beside the reference."""
    held = None
    if vote:
        answer, by_reference = vote
        agreement = 1.0 if answer else 0.0
        held = {"answer": answer, "num_votes": int(agreement), "agreement": agreement}
        held["verdict"] = by_reference
    return make_group("a", [make_completion(verdict=verdict)], reference=reference, vote=held)


def test_text_that_agrees_with_its_own_vote_is_right_only_beside_the_problems_answer():
    rows = [
        row("correct", vote=("1", "correct")),
        row("correct", vote=("7", "wrong")),
        row("unparsable", vote=("", None)),  # casts no vote; its problem has an answer
        row("correct", "", ("7", None)),  # an unlabelled problem
        row("unparsable", "", ("", None)),
        make_group("b", [], vote={"answer": "", "num_votes": 0, "agreement": 0.0, "verdict": None}),
    ]
    assert _right("first", rows) == {"right_first": 1.0, "all_first": 3.0}


def test_text_judged_by_references_counts_as_judged():
    rows = [row("correct"), row("wrong"), row("unparsable")]
    assert _right("first", rows) == {"right_first": 1.0, "all_first": 3.0}


def test_money_of_the_judge_is_that_of_both_answers_that_the_student_was_asked_for(tmp_path):
    """The ledgers lie there; the writer is sure, so that nobody is asked once more."""
    text = "<answer>\\boxed{1}</answer>"
    store = write_store(tmp_path / "written", [make_group("a", [make_completion(text)] * 3)])
    problems = Place(tmp_path / "problems.parquet")
    write_problems([Problem("a", "t", "train", "q?", "1", "number")], problems)
    out = Place(tmp_path / "rewritten")
    for name, lines in (("first_answers", PRICED), ("rewritten_answers", PRICED + UNTOLD)):
        (out / name / "llm_judge/paid/one.jsonl").put(lines)
    rewriting = Rewriting(
        TeacherKnobs(model="org/model"),
        RewriteKnobs(),
        SamplingKnobs(n=1),
        Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs(min_correct=0, min_size=1)),
        PoolsKnobs(),
    )
    result = rewrite(store.folder, ProblemFile(problems), rewriting, out=out)
    assert (result.rows_out, result.facts["original"]) == (1, 1.0)
    assert result.facts["judge_paid"] == pytest.approx(0.5)
    assert result.facts["judge_answers_untold"] == 1
