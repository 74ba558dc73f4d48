"""How many texts that a student rewrote are right, by the problems' own answers."""

from support.groups import make_completion, make_group

from fastdistill_ray.run.rewriting import _right


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
