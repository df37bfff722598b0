"""Progress bars that are live in a terminal and a line now and then in a log file."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

SECONDS_BETWEEN_LOG_LINES = 30


def progress_bar(iterable: Iterable, name: str, unit: str, done: int, total: int, shown: bool = True) -> tqdm:
    """A bar over ``iterable``, the rest of ``total`` steps of which ``done`` are done already."""
    interval = 0.1 if sys.stderr.isatty() else SECONDS_BETWEEN_LOG_LINES
    return tqdm(
        iterable,
        desc=name,
        unit=unit,
        initial=done,
        total=max(done, total),
        mininterval=interval,
        maxinterval=interval,
        disable=not shown,
    )
