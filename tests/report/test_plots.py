"""Figures have room for what they show."""

import warnings

from fastdistill_ray.report.plots import Bar, accuracy_svg, verdict_svg

LONG = "SFT on all completions, confidence 0.5, on texts of weak, problems 50% to 100%"


def test_long_names_leave_room_for_bars() -> None:
    bars = [
        Bar("#5f6978", "Base student", 39.0, 32.0, 46.0),
        Bar("#db3395", LONG, 34.5, 28.0, 41.0),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where axes have no room
        figures = [
            accuracy_svg({"Test": bars, "Out-of-distribution": bars}),
            verdict_svg({f"{LONG}, {split}": {**NOTHING, "correct": 100.0} for split in "ab"}),
        ]
    for figure in figures:
        assert all(word in figure for word in LONG.split())


NOTHING = dict.fromkeys(("wrong", "unparsable", "truncated", "timeout", "error"), 0.0)
