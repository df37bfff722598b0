"""Command lines: a parser whose complaint is one sentence, value types that name what would be right, exit codes."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from utils.errors import InputError
from utils.run.torchrun import is_first_to_say


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


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number within bounds."""
    return _number(int, low, high, "a whole number")


def real(low: float, high: float | None = None) -> Callable[[str], float]:
    """An argparse type: a number within bounds."""
    return _number(float, low, high, "a number")


def folder(text: str) -> Path:
    """An argparse type: a folder's path. An empty one is a shell variable that was not set, not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a folder, got an empty name")
    return Path(text)


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


def _memory_ran_out(error: Exception) -> bool:
    """PyTorch's allocators have no exception of their own on a CPU; a GPU's says "out of memory"."""
    return isinstance(error, MemoryError) or any(
        sign in str(error) for sign in ("can't allocate memory", "out of memory")
    )


def run(main: Callable[[], None], prog: str, after_interrupt: str, less_memory: str = "close other programs") -> None:
    """Runs a script's ``main``; an :class:`InputError` becomes one sentence and exit status 2, Ctrl-C status 130.

    Args:
        after_interrupt: what to say of the work so far when it was stopped by Ctrl-C.
        less_memory: what to do when memory runs out.
    """
    try:
        main()
    except (InputError, OSError) as error:
        _end(f"{prog}: error: {error}", 2)
    except (MemoryError, RuntimeError) as error:
        if not _memory_ran_out(error):
            raise
        _end(f"{prog}: error: out of memory: {less_memory}.", 2)
    except KeyboardInterrupt as stop:
        _end(f"\n{prog}: {str(stop) or 'interrupted'}; {after_interrupt}", 130)


def _end(last_words: str, status: int) -> NoReturn:
    """Says why the script ends; of several processes that end alike, one says it."""
    if is_first_to_say(last_words):
        print(last_words, file=sys.stderr)
    sys.exit(status)
