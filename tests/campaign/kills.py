"""Runs that are killed, interrupted, or started twice in one folder."""

import random
import signal
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from tests.campaign.judging import Outcome, damaged_logs, problem_of
from tests.campaign.runs import Kind, Kinds, as_shell, real_process

LONGEST_CHAIN = 4  # kills of one run, before it is finished and compared


def kills(kinds: Kinds, times: int, draws: random.Random) -> Iterator[Outcome]:
    """SIGKILL at random moments; a run that is resumed in the end is as the undisturbed one. An outcome a kill."""
    done = 0
    for number, kind in enumerate(cycle(kinds.each)):
        if done >= times:
            return
        path = kinds.folder / f"killed{number}"
        command = kind.command(path, "--resume")
        moments = [draws.uniform(0, kind.seconds) for _ in range(min(draws.randint(1, LONGEST_CHAIN), times - done))]
        problem = None
        for moment in moments:
            pid = kinds.scripts.start(*command)
            time.sleep(moment)
            kinds.scripts.send_signal(pid, signal.SIGKILL)
            finished = kinds.scripts.wait(pid)
            if finished.status != -signal.SIGKILL:  # it was over before, well or not
                problem = problem or problem_of(finished, (0,))
        problem = problem or problem_of(kinds.scripts.run(*command), (0,)) or differs(kind, path)
        how = f"{as_shell(command)}, killed after {', '.join(f'{moment:.2f}' for moment in moments)} s, then resumed"
        yield from [Outcome(how, problem)] * len(moments)
        done += len(moments)


def differs(kind: Kind, path: Path) -> str | None:
    """How a finished run differs from the undisturbed one."""
    try:
        kind.differ(path, kind.reference)
    except (AssertionError, OSError, ValueError) as difference:
        return f"another result: {str(difference)[:200]}"
    return damaged_logs(path)


def double(kinds: Kinds, times: int, draws: random.Random) -> Iterator[Outcome]:
    """Two processes at once in one folder: one does the work, unharmed; the other is refused, or finds it done."""
    for number, kind in zip(range(times), cycle(kinds.each)):
        path = kinds.folder / f"twice{number}"
        command = kind.command(path, "--resume")
        if draws.random() < 0.5:  # a run that is there already
            pid = kinds.scripts.start(*command)
            time.sleep(draws.uniform(0, kind.seconds))
            kinds.scripts.send_signal(pid, signal.SIGKILL)
            kinds.scripts.wait(pid)
        both = kinds.scripts.wait_for_each(*kinds.scripts.start_each([command, command]))
        refused = [finished for finished in both if finished.status == 2]
        problem = problem_of(both[0]) or problem_of(both[1]) or differs(kind, path)
        if len(refused) == 2:
            problem = "both are refused"
        elif refused and "is writing into" not in refused[0].stderr and "another process" not in refused[0].stderr:
            problem = f"refused for another reason: {refused[0].stderr[-200:]!r}"
        yield Outcome(f"twice at once: {as_shell(command)}", problem)


def interrupts(kinds: Kinds, times: int, draws: random.Random) -> Iterator[Outcome]:
    """Ctrl-C at random moments of a process that has everything yet to import."""
    for number, kind in zip(range(times), cycle(kinds.each)):
        path = kinds.folder / f"interrupted{number}"
        command = kind.command(path, "--resume", "--workers", draws.randint(0, 1))
        moment = draws.uniform(0.1, 2) if draws.random() < 0.5 else draws.uniform(2, 5 + kind.seconds)
        finished = real_process(command, interrupted_after=moment)
        problem = problem_of(finished, (0, 130))
        words = [line for line in finished.stderr.splitlines() if "interrupted" in line]
        if not problem and (len(words) != 1) == (finished.status == 130):
            problem = f"not one line: {finished.stderr[-300:]!r}"
        yield Outcome(f"{as_shell(command)}, Ctrl-C after {moment:.2f} s", problem)
