"""Work in a copy of the process: what comes back of it, and how its end is told."""

import os
import signal

import pytest

from utils.errors import InputError
from utils.run.aside import aside


def test_a_result_comes_back_and_nothing_is_changed_here():
    changed = []
    assert aside(lambda: (changed.append(1), os.getpid()))[1] != os.getpid()
    assert changed == []


def test_a_refusal_is_raised_here():
    def refuse():
        raise InputError("too little")

    with pytest.raises(InputError, match="too little"):
        aside(refuse)


def without_memory():
    raise MemoryError


def without_a_thread():
    raise RuntimeError("Resource temporarily unavailable")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("work", [without_memory, without_a_thread, killed])
def test_a_copy_that_runs_out_of_memory(work):
    with pytest.raises(MemoryError):
        aside(work)


def test_a_mistake_is_said_by_the_copy(capfd):
    with pytest.raises(SystemExit) as end:
        aside(lambda: 1 / 0)
    assert end.value.code == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_copy_that_was_told_to_end():
    with pytest.raises(SystemExit) as end:
        aside(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert end.value.code == 128 + signal.SIGTERM
