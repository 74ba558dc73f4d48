"""Votes of models on the answers that they gave."""

import pyarrow as pa

from fastdistill_ray.evaluation.answers import ANSWERS_SCHEMA
from fastdistill_ray.evaluation.ensembles import vote
from fastdistill_ray.run_files import ANSWERS
from fastdistill_ray.storage.place import Place
from fastdistill_ray.storage.tables import read_parquet, write_parquet
from fastdistill_ray.verifiers import VerifierKnobs


def answers(
    folder: Place, said: list[str | None], kind: str = "number", num_each: int = 1
) -> Place:
    """Of problems p0, p1, ..., so many of each; None: not answered. The reference of each is 7."""
    rows = [
        {
            **dict.fromkeys(ANSWERS_SCHEMA.names),
            "problem_id": f"p{place // num_each}",
            "k": place % num_each,
            "kind": kind,
            "reference": "7",
            "options": [],
            "scorer": "",
            "question": "?",
            "text": f"<answer>\\boxed{{{answer}}}</answer>" if answer else "no idea",
            "finish_reason": "stop",
            "num_tokens": place,
            "verdict": "correct" if answer == "7" else "wrong",
            "reason": folder.name,
        }
        for place, answer in enumerate(said)
        if answer is not None
    ]
    write_parquet(pa.Table.from_pylist(rows, schema=ANSWERS_SCHEMA), folder / ANSWERS)
    return folder


def test_ensemble_gives_the_answer_of_most_and_of_the_first_where_none_has_most(tmp_path):
    place = Place(tmp_path)
    members = [
        answers(place / "a", ["1", "7", "3", "", "5", "5"]),
        answers(place / "b", ["7", "7.0", "4", "7", "", None]),
        answers(place / "c", ["7", "2", "5", "", "6", "7"]),
    ]
    result = vote(members, VerifierKnobs(), out=place / "vote")
    rows = read_parquet(place / "vote" / ANSWERS).to_pylist()
    elected = [(row["problem_id"], row["reason"], row["verdict"]) for row in rows]
    assert elected == [
        ("p0", "b", "correct"),  # two of three, in the first one's text
        ("p1", "a", "correct"),  # 7 and 7.0 are one answer
        ("p2", "a", "wrong"),  # three answers: the first
        ("p3", "b", "correct"),  # the others abstain
        ("p4", "a", "wrong"),  # one each: the first
    ]
    assert (result.rows_in, result.rows_out, result.set_aside) == (6, 5, {"not_answered": 1})


def test_ensemble_of_answers_that_cannot_be_compared_is_its_first_member(tmp_path):
    place = Place(tmp_path)
    members = [answers(place / name, said, "scored") for name, said in (("a", ["1"]), ("b", ["7"]))]
    vote([*members, members[1]], VerifierKnobs(), out=place / "vote")
    (row,) = read_parquet(place / "vote" / ANSWERS).to_pylist()
    assert row["reason"] == "a"


def test_ensemble_of_several_answers_to_a_problem_counts_problems(tmp_path):
    place = Place(tmp_path)
    members = [
        answers(place / "a", ["7", "7", "3", "7", "1", "1"], num_each=2),
        answers(place / "b", ["7", "7", "3", "7", None, None], num_each=2),
    ]
    result = vote(members, VerifierKnobs(), out=place / "vote")
    assert len(read_parquet(place / "vote" / ANSWERS)) == 4
    assert (result.rows_in, result.rows_out, result.set_aside) == (3, 2, {"not_answered": 1})
