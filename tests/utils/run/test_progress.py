"""The progress bar, live in a terminal and seldom in a log file."""

import sys

import pytest

from utils.run.progress import SECONDS_BETWEEN_LOG_LINES, progress_bar


@pytest.mark.parametrize(("terminal", "seconds"), [(True, 0.1), (False, SECONDS_BETWEEN_LOG_LINES)])
def test_seconds_between_two_updates(monkeypatch, terminal, seconds):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    bar = progress_bar(range(3), "TFML", "meta-epoch", 0, 3)
    assert (bar.mininterval, bar.maxinterval) == (seconds, seconds)
    assert list(bar) == [0, 1, 2]


def test_says_how_far_it_is_from_where_it_goes_on(capsys):
    assert list(progress_bar(range(2, 4), "search", "task", 2, 4)) == [2, 3]
    said = capsys.readouterr().err
    assert "search:  50%" in said
    assert "4/4" in said


def test_run_that_is_longer_than_asked_is_whole(capsys):
    list(progress_bar([], "search", "task", 5, 2))
    assert "5/5" in capsys.readouterr().err
