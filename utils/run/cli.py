"""Command lines: a parser whose complaint is one sentence, value types that name what would be right, exit codes.

PyTorch is not imported here, so that a wrong command line is refused at once.
"""

import argparse
import errno
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from utils.errors import InputError
from utils.run import start
from utils.run.code_pages import give_back_code_pages
from utils.run.torchrun import is_first_to_say

LARGEST = 2**63 - 1  # whole number: what is larger fits in no file that other programs read
DEVICES = ("auto", "cpu", "cuda")  # of --device
# PyTorch has no exception of its own for a CPU without memory: what it and what it is built on say, in lower case.
OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "failed to map segment", "bad_alloc"),
    *("could not create a primitive", "could not execute a primitive", "could not create a memory"),  # oneDNN
    *("can't start new thread", "resource temporarily unavailable"),  # the stack of a thread
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds "(default: ...)", except where the help text itself says what holds when the flag is not given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        unset = action.default is None or action.default is False or action.default == ""
        return action.help if unset else super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with exact flag names, defaults in ``--help``, and a complaint of one sentence (exit status 2)."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **options)

    def given(self) -> set[str]:
        """The names of the flags that the command line gives, even where it gives the default."""
        absent = object()
        untouched = argparse.Namespace(**dict.fromkeys(vars(self.parse_args()), absent))
        return {flag for flag, value in vars(self.parse_args(namespace=untouched)).items() if value is not absent}

    def error(self, message: str):
        _end(f"{self.prog}: error: {message} (see {self.prog} --help)", 2)


def _number(convert: Callable, low: float, high: float | None, kind: str) -> Callable[[str], float]:
    expected = f"expected {kind}" + (f" of at least {low}" if high is None else f" from {low} to {high}")

    def parse(text: str):
        try:
            value = convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{expected}, got {text!r}") from None
        if (isinstance(value, float) and not math.isfinite(value)) or not low <= value <= (
            value if high is None else high
        ):
            raise argparse.ArgumentTypeError(f"{expected}, got {text}")
        return value

    return parse


def whole(low: int, high: int = LARGEST) -> Callable[[str], int]:
    """An argparse type: a whole number within bounds."""
    return _number(int, low, high, "a whole number")


def real(low: float, high: float | None = None) -> Callable[[str], float]:
    """An argparse type: a number within bounds."""
    return _number(float, low, high, "a number")


def place(text: str) -> Path:
    """An argparse type: the path of a file or a folder, "~" expanded; none is empty, as of an unset variable."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty name")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"expected a path, got {text!r}: there is no such home folder") from error


def switch(text: str) -> int:
    """An argparse type: 0 or 1."""
    if text not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"expected 0 (off) or 1 (on), got {text!r}")
    return int(text)


def memory_ran_out(error: BaseException) -> bool:
    """Whether an exception, or one that it comes from, says that there was no memory left."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if isinstance(error, (RuntimeError, ImportError, SystemError)) and any(
        sign in str(error).lower() for sign in OUT_OF_MEMORY
    ):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and memory_ran_out(cause)


def run(
    main: Callable[[], None],
    prog: str,
    after_interrupt: str,
    less_memory: Callable[[], str] = lambda: "close other programs",
) -> None:
    """Runs a script's ``main``; an :class:`InputError` becomes one sentence and exit status 2, Ctrl-C status 130.

    Args:
        after_interrupt: what to say of the work so far when it was stopped by Ctrl-C.
        less_memory: called when memory has run out; returns what to do.
    """
    start.imports_are_done()
    give_back_code_pages()
    start.open_standard_streams()
    try:
        start.raise_interrupts()
        main()
    except KeyboardInterrupt as stop:
        start.interrupt_is_taken()
        _end(f"\n{prog}: {str(stop) or 'interrupted'}; {after_interrupt}", 130)
    except ModuleNotFoundError as missing:
        _end(f"{prog}: error: {start.not_installed(missing.name)}.", 2)
    except (InputError, OSError, MemoryError, RuntimeError, ImportError, SystemError) as error:
        if not memory_ran_out(error):
            if not isinstance(error, (InputError, OSError)):
                raise
            _end(f"{prog}: error: {_sentence(error)}", 2)
        ran_out = True
    else:
        ran_out = False
    if ran_out:  # outside of the handler, where the exception no longer keeps all that was in use
        limit = start.memory_limit()
        _end(f"{prog}: error: out of memory{f' in {limit}' if limit else ''}: {less_memory()}.", 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is written
    lost = start.lost_output()
    if lost:
        _end(f"{prog}: error: the work is done, but {lost}.", 2)


def _sentence(error: Exception) -> str:
    """An error's own words; of the system's, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error)


def _end(last_words: str, status: int) -> NoReturn:
    """Says why the script ends; of several processes that end alike, one says it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ending
    if is_first_to_say(last_words):
        print(last_words, file=sys.stderr)
    sys.exit(status)
