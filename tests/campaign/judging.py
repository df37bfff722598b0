"""What a good end of a process is, and a fault that is none."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import Finished

SIGNS = ("Traceback", "site-packages", "[Errno", "Exception ignored")  # of what is not meant for a user


@dataclass(frozen=True)
class Outcome:
    """Of one attempt. how: how to do it again. problem: what is wrong; None: it held."""

    how: str
    problem: str | None


def problem_of(finished: Finished, statuses: tuple[int, ...] = (0, 2)) -> str | None:
    """What is wrong with the end of a process: a hang, a signal, a traceback, no sentence or several; or None."""
    if finished.status == -signal.SIGKILL:
        return "it hangs"
    if finished.status < 0:
        return f"ended by {signal.Signals(-finished.status).name}"
    for sign in SIGNS:
        if sign in finished.stderr:
            where = finished.stderr.index(sign)
            return f"{sign}: ...{finished.stderr[where:][-200:]!r}"
    if finished.status not in statuses:
        return f"exit status {finished.status}: {finished.stderr[-200:]!r}"
    if finished.status == 2 and finished.stderr.count("error: ") != 1:
        return f"not one sentence: {finished.stderr[-300:]!r}"
    return None


def damaged_logs(path: Path) -> str | None:
    """What is wrong with the logs of a run: a line that is no object, or not the row of its place."""
    numbers = {"tasks.jsonl": "task", "metrics.jsonl": "meta_epoch", "search.jsonl": "epoch", "derived.jsonl": "epoch"}
    for log, number in numbers.items():
        if (path / log).exists():
            found = [json.loads(line)[number] for line in (path / log).read_text().splitlines()]
            if found != list(range(len(found))):
                return f"{log} is corrupted: rows {found}"
    return None
