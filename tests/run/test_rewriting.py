"""How many texts that a student rewrote are right, by the problems' own answers, and their cost."""

from pathlib import Path
from typing import Any

import pytest
from support.groups import make_completion, make_group, write_store
from support.models import make_tiny_model

from fastdistill_ray.cluster.pools import PoolsKnobs
from fastdistill_ray.errors import UserError
from fastdistill_ray.generation.knobs import EngineKnobs, SamplingKnobs, TeacherKnobs
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


def rewriting_by(student: TeacherKnobs) -> Rewriting:
    judging = Judging(RewardKnobs(), AdvantageKnobs(), SelectionKnobs(min_correct=0, min_size=1))
    sampling = SamplingKnobs(n=1, max_new_tokens=8)
    return Rewriting(student, RewriteKnobs(), sampling, judging, PoolsKnobs())


def answered(file: ProblemFile, *_: Any, out: Place) -> None:
    """In place of an engine: a group of one completion for every problem that it is given."""
    text = "<answer>\\boxed{2}</answer>"
    write_store(
        Path(str(out)),
        [
            make_group(one.problem_id, [make_completion(text)], question=one.question)
            for one in file
        ],
    )


def doubted_and_sure(folder: Path) -> tuple[Place, ProblemFile]:
    """A writer's groups: it is sure of its first answer, not of the other two's."""
    one, two = (f"<answer>\\boxed{{{n}}}</answer>" for n in (1, 2))
    unsure = [make_completion(text) for text in (one, one, two, two)]
    asked = {"sure": "q?", "short": "q?", "long": "what is it? " * 400}
    groups = [
        make_group(key, unsure if key != "sure" else [make_completion(one)] * 3, question=question)
        for key, question in asked.items()
    ]
    problems = Place(folder / "problems.parquet")
    write_problems(
        [Problem(key, "t", "train", q, "1", "number") for key, q in asked.items()], problems
    )
    return write_store(folder / "written", groups).folder, ProblemFile(problems)


@pytest.mark.parametrize(
    ("max_model_len", "rewritten", "left"),
    [(2048, 1, {"not_answered": 1}), (16, 0, {"not_answered": 2}), (100_000, 2, {})],
)
def test_student_is_not_asked_where_its_prompt_leaves_no_room_and_the_others_stay(
    tmp_path, monkeypatch, max_model_len, rewritten, left
):
    model = make_tiny_model(str(tmp_path / "model"))
    written, problems = doubted_and_sure(tmp_path)
    student = TeacherKnobs(model=model, engine=EngineKnobs(max_model_len=max_model_len))
    monkeypatch.setattr("fastdistill_ray.run.rewriting.curate", answered)
    out = Place(tmp_path / "rewritten")
    result = rewrite(written, problems, rewriting_by(student), out=out)
    assert (result.rows_in, result.rows_out, result.set_aside) == (3, 1 + rewritten, left)
    assert (result.facts["original"], result.facts.get("rewritten", 0.0)) == (1.0, rewritten)


def test_student_that_has_room_for_no_prompt_names_its_own_engine(tmp_path):
    unsure = [make_completion(f"<answer>\\boxed{{{n}}}</answer>") for n in (1, 1, 2, 2)]
    store = write_store(tmp_path / "written", [make_group("a", unsure)])
    problems = Place(tmp_path / "problems.parquet")
    write_problems([Problem("a", "t", "train", "q?", "1", "number")], problems)
    model = make_tiny_model(str(tmp_path / "model"))
    student = TeacherKnobs(model=model, engine=EngineKnobs(max_model_len=9))
    out = Place(tmp_path / "rewritten")
    with pytest.raises(UserError, match=r"not_answered.: 1.*raise evaluation.engine.max_model_len"):
        rewrite(store.folder, ProblemFile(problems), rewriting_by(student), out=out)


def test_money_of_the_judge_is_that_of_both_answers_that_the_student_was_asked_for(tmp_path):
    """The ledgers lie there; the writer is sure, so that nobody is asked once more."""
    text = "<answer>\\boxed{1}</answer>"
    store = write_store(tmp_path / "written", [make_group("a", [make_completion(text)] * 3)])
    problems = Place(tmp_path / "problems.parquet")
    write_problems([Problem("a", "t", "train", "q?", "1", "number")], problems)
    out = Place(tmp_path / "rewritten")
    for name, lines in (("first_answers", PRICED), ("rewritten_answers", PRICED + UNTOLD)):
        (out / name / "llm_judge/paid/one.jsonl").put(lines)
    rewriting = rewriting_by(TeacherKnobs(model="org/model"))
    result = rewrite(store.folder, ProblemFile(problems), rewriting, out=out)
    assert (result.rows_out, result.facts["original"]) == (1, 1.0)
    assert result.facts["judge_paid"] == pytest.approx(0.5)
    assert result.facts["judge_answers_untold"] == 1
