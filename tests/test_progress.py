"""The line that a stage writes while it runs."""

import io
import os
import pty
import re

import pytest

from fastdistill_ray.progress import Progress, Screen, amount, bar_line


def test_bar_line_shows_share_and_time_left():
    line = bar_line("generate", 12, 48, 95.0, "kept 70%")
    assert "[######..................] 12/48" in line
    assert line.endswith("kept 70%  left 1:35")
    assert bar_line("x", 0, 0, None, "").count("#") == 24


class Terminal(io.StringIO):
    """Keeps what is seen: a line that is begun again is erased first."""

    def isatty(self) -> bool:
        return True

    def seen(self) -> list[str]:
        return [re.sub(r".*\r\x1b\[2K", "", line) for line in self.getvalue().split("\n")]


def test_screen_that_went_away_does_not_take_the_place_of_what_is_to_happen_then():
    """A terminal is closed while a bar stands there: what is to be done at its SIGHUP is done."""
    ours, theirs = pty.openpty()
    terminal = open(theirs, "w")  # noqa: SIM115  its closing fails, too
    screen = Screen(terminal)
    screen.write(f"{BARS[0]}\n")
    os.close(ours)
    screen.end()
    with pytest.raises(OSError):
        terminal.close()


BARS = [bar_line("train sft", done, 3, 1.0, "loss 0.5") for done in (1, 2, 3)]
LOG = f"started\n{BARS[0]}\n{BARS[1]}\na warning\n{BARS[2]}\ndone"


@pytest.mark.parametrize("size", [1, 7, len(LOG)])
def test_a_terminal_shows_the_last_line_of_a_bar_and_every_other_line(size):
    terminal = Terminal()
    screen = Screen(terminal)
    for start in range(0, len(LOG), size):
        screen.write(LOG[start : start + size])
    screen.end()
    assert terminal.seen() == ["started", BARS[1], "a warning", BARS[2], "done"]


def test_two_bars_keep_a_line_each():
    terminal = Terminal()
    other = bar_line("generate", 1, 3, None, "")
    Screen(terminal).write(f"{BARS[0]}\n{other}\n")
    assert terminal.seen() == [BARS[0], other]


# As Ray 2.60 writes them into the log of each job.
OF_RAY = """\
2026-11-30 14:02:22,865\tINFO job_manager.py:581 -- Runtime env is setting up.
[2026-11-30 14:02:32,392 I 3044 3044] logging.cc:303: Set ray log level from environment variable \
RAY_BACKEND_LOG_LEVEL to 3
"""


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_pipe_gets_the_log_without_what_ray_says_of_itself(size):
    pipe, log = io.StringIO(), OF_RAY + LOG
    screen = Screen(pipe)
    for start in range(0, len(log), size):
        screen.write(log[start : start + size])
    screen.end()
    assert pipe.getvalue() == LOG


def test_the_end_of_a_stage_repeats_no_line(capsys):
    progress = Progress("train sft", 2)
    progress.advance(1, tokens=10)
    progress.end()
    progress.advance(1, tokens=10)
    progress.end()
    progress.end()
    lines = capsys.readouterr().out.splitlines()
    assert [re.search(r"\] (\d/2)", line)[1] for line in lines] == ["1/2", "2/2"]


@pytest.mark.parametrize(
    ("money", "said"), [(22.0, "22.00"), (1234.5, "1,234.50"), (0.1, "0.10"), (0.00123, "0.0012")]
)
def test_small_sums_are_not_rounded_to_nothing(money, said):
    assert amount(money) == said
