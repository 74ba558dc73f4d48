"""The line that a stage writes while it runs."""

from fastdistill_ray.progress import bar_line


def test_bar_line_shows_share_and_time_left():
    line = bar_line("generate", 12, 48, 95.0, "kept 70%")
    assert "[######..................] 12/48" in line
    assert line.endswith("kept 70%  left 1:35")
    assert bar_line("x", 0, 0, None, "").count("#") == 24
