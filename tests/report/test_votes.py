"""The table of votes, counted by hand."""

from pathlib import Path

from support.groups import make_completion, make_group, write_store

from fastdistill_ray.report.page import Cell, Table
from fastdistill_ray.report.votes import vote_table
from fastdistill_ray.rewards.selection import LOW_AGREEMENT, OTHER_PART, REFUSED
from fastdistill_ray.storage.place import Place

CLEAR = {"min_votes": 3, "min_agreement": 0.6}


def group(
    name: str, agreement: float, verdict: str | None, dropped: str = "", num_votes: int = 3
) -> dict:
    """Of four completions, most of which voted."""
    vote = {"answer": "1", "num_votes": num_votes, "agreement": agreement, "verdict": verdict}
    completions = [make_completion() for _ in range(4)]
    return make_group(name, completions, vote=vote, dropped=dropped)


def test_table_says_how_often_votes_are_right_at_each_agreement(tmp_path: Path) -> None:
    groups = [
        group("a", 1.0, "correct"),
        group("b", 1.0, "wrong"),
        group("c", 1.0, None),
        group("d", 0.5, "wrong", LOW_AGREEMENT),
    ]
    write_store(tmp_path, groups)
    table = vote_table(Place(tmp_path), CLEAR)
    assert shown(table) == [
        ["up to 50%", "1", "25.0", "0.0", "1"],
        ["90% to 100%", "3", "75.0", "50.0", "2"],
        ["Clear enough", "3", "75.0", "50.0", "2"],
        ["All", "4", "100.0", "33.3", "3"],
    ]
    assert table.caption.endswith("25.0 % of the completions abstained.")


def test_vote_of_a_group_dropped_for_another_reason_is_clear_only_where_it_is(tmp_path):
    groups = [
        group("a", 1.0, "correct"),
        group("b", 0.6, "wrong", OTHER_PART),
        group("c", 0.5, "wrong", OTHER_PART),
        group("d", 1.0, "correct", LOW_AGREEMENT, num_votes=2),
        group("e", 0.0, None, REFUSED, num_votes=0),
    ]
    write_store(tmp_path, groups)
    rows = {row[0]: row[1:] for row in shown(vote_table(Place(tmp_path), CLEAR))}
    assert rows["Clear enough"] == ["2", "40.0", "50.0", "2"]  # a and b
    assert rows["All"] == ["5", "100.0", "50.0", "4"]


def shown(table: Table) -> list[list[str]]:
    return [[one.text if isinstance(one, Cell) else one for one in row] for row in table.rows]
