"""Work in a process of its own: what it imports and allocates is given back at its end, and no part of the peak."""

import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn, TypeVar

import torch

from utils.errors import InputError
from utils.run.cli import memory_ran_out
from utils.run.start import CRASHES

OUT_OF_MEMORY = 3  # exit status of a copy
Result = TypeVar("Result")


def aside(work: Callable[[], Result]) -> Result:
    """What ``work`` returns, which can be pickled, in a copy of this process; nothing that it changes is changed here.

    Raises:
        InputError: ``work`` raised it.
        MemoryError: the copy has died of want of memory: by its own word, by a crash, or killed by the system.
        SystemExit: the copy has said what was wrong with it, or was told to end.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of PyTorch's threads, which the copy does without
        child = os.fork()
    if not child:
        _work(work, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            content = pipe.read()
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not content:
        if status == OUT_OF_MEMORY or -status in (signal.SIGKILL, *CRASHES):
            raise MemoryError("a process beside this one has died")
        raise SystemExit(1 if status >= 0 else 128 - status)
    result, error = pickle.loads(content)
    if error is not None:
        raise error
    return result


def _work(work: Callable[[], Result], writing: int) -> NoReturn:
    """In the copy: sends (result, None), or (None, an InputError)."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # both get a Ctrl-C, and one has the say
        torch.set_num_threads(1)  # the threads of before are not there
        try:
            outcome = work(), None
        except InputError as error:
            outcome = None, error
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(outcome, pipe)
    except BaseException as error:
        if memory_ran_out(error):
            os._exit(OUT_OF_MEMORY)
        sys.excepthook(*sys.exc_info())  # a mistake in the program: its traceback is what can be said
    finally:
        os._exit(0)
