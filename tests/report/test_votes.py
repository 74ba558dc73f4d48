"""The table of votes, counted by hand."""

from pathlib import Path

from support.groups import make_completion, make_group, write_store

from fastdistill_ray.report.page import Cell
from fastdistill_ray.report.votes import vote_table
from fastdistill_ray.rewards.selection import LOW_AGREEMENT
from fastdistill_ray.storage.place import Place


def group(name: str, agreement: float, verdict: str | None, dropped: str = "") -> dict:
    """Of four completions, three of which voted."""
    vote = {"answer": "1", "num_votes": 3, "agreement": agreement, "verdict": verdict}
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
    table = vote_table(Place(tmp_path))
    shown = [[one.text if isinstance(one, Cell) else one for one in row] for row in table.rows]
    assert shown == [
        ["up to 50%", "1", "25.0", "0.0", "1"],
        ["90% to 100%", "3", "75.0", "50.0", "2"],
        ["Clear enough", "3", "75.0", "50.0", "2"],
        ["All", "4", "100.0", "33.3", "3"],
    ]
    assert table.caption.endswith("25.0 % of the completions abstained.")
