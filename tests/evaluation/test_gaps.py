"""The gap recovered, by hand."""

import pytest

from fastdistill_ray.evaluation.gaps import Gap, gap_recovered

GAP = Gap("strong", "weak", "ceiling")


def rows_of(letters: str, seed: int = 0) -> list[dict]:
    """A problem for each letter: c is correct."""
    return [
        {
            "problem_id": f"p{i:03}",
            "split": "test",
            "k": 0,
            "training_seed": seed,
            "cluster": "",
            "lenient_verdict": "correct" if letter == "c" else "wrong",
        }
        for i, letter in enumerate(letters)
    ]


def test_gap_is_the_share_of_the_way_from_the_writer_to_the_ceiling():
    """60, 72 and 80 of 100 problems right: 0.6 of the gap; the student repeats 28 of the writer's
    40 faults, the ceiling 20."""
    answers = {
        "weak": rows_of("c" * 60 + "w" * 40),
        "strong": rows_of("c" * 72 + "w" * 28),
        "ceiling": rows_of("c" * 80 + "w" * 20),
    }
    row = gap_recovered(GAP, answers, "test")
    assert row and row["value"] == pytest.approx(0.6)
    assert 0.3 < row["low"] < 0.6 < row["high"] < 0.9
    assert (row["num_problems"], row["num_clusters"]) == (100, 100)
    assert row["wrong_too"] == pytest.approx(0.7)
    assert row["ceiling_wrong_too"] == pytest.approx(0.5)
    assert (row["student"], row["writer"], row["ceiling"]) == ("strong", "weak", "ceiling")
    assert gap_recovered(GAP, answers, "ood") is None


def test_student_below_the_writer_recovers_less_than_nothing():
    answers = {
        "weak": rows_of("c" * 60 + "w" * 40),
        "strong": rows_of("c" * 50 + "w" * 50),
        "ceiling": rows_of("c" * 80 + "w" * 20),
    }
    row = gap_recovered(GAP, answers, "test")
    assert row and row["value"] == pytest.approx(-0.5)


def test_where_there_may_be_no_gap_there_is_no_interval_and_without_one_no_value():
    close = {
        "weak": rows_of("c" * 60 + "w" * 40),
        "strong": rows_of("c" * 61 + "w" * 39),
        "ceiling": rows_of("w" * 30 + "c" * 62 + "w" * 8),
    }
    row = gap_recovered(GAP, close, "test")
    assert row and row["value"] == pytest.approx(0.5)
    assert (row["low"], row["high"]) == (None, None)
    none = close | {"ceiling": rows_of("c" * 50 + "w" * 50)}
    row = gap_recovered(GAP, none, "test")
    assert row and (row["value"], row["low"]) == (None, None)


def test_seeds_are_averaged_and_only_problems_that_all_answered_count():
    answers = {
        "weak": rows_of("c" * 4 + "w" * 16),
        "strong": rows_of("c" * 8 + "w" * 12, seed=1) + rows_of("c" * 12 + "w" * 8, seed=2),
        "ceiling": rows_of("c" * 16 + "w" * 14),
    }
    row = gap_recovered(GAP, answers, "test")
    assert row and row["num_problems"] == 20
    assert row["value"] == pytest.approx((0.5 - 0.2) / (0.8 - 0.2))
    # Of the 16 problems that the writer has wrong, the seeds have 12 and 8 wrong.
    assert row["wrong_too"] == pytest.approx(10 / 16)
