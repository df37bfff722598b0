"""Command lines that are drawn from a grammar of hostile values."""

import random
import re
import signal
import threading
from collections.abc import Iterator
from itertools import cycle

from tests.campaign.judging import Outcome, problem_of
from tests.campaign.runs import Kinds, as_shell

NUMBERS = ["0", "-1", "1", "2", "7", "0.5", "3e38", "1e20", "1e308", "1e-320", "-0.0", "nan", "inf", "0x10", "1_000"]
NUMBERS += ["٣", "100000", "2147483648", "9223372036854775807", "9223372036854775808", "1" + "0" * 400]
WORDS = ["", " ", "x", "-", "--", "/", "..", "\n", "a\nb", "\x1b[31m", "\udcff", "a" * 300, "None", "full", "synthetic"]
WORDS += ["darts", "cuda", "linear", "$HOME", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", "/proc/nope"]
PATIENCE = 8  # seconds, after which a run that just takes long is interrupted
KEPT = ("--path", "--export")  # of each attempt it is a folder of its own, and files are not to lie anywhere
HELP = re.compile(r"^\s+(--\w+)", re.MULTILINE)


def flags(kinds: Kinds, times: int, draws: random.Random) -> Iterator[Outcome]:
    """Tiny runs with up to three flags that are hostile: done, refused in a sentence, or interrupted in one."""
    names = {kind.script: HELP.findall(kinds.scripts.run(kind.script, "--help").stdout) for kind in kinds.each}
    for number, kind in zip(range(times), cycle(kinds.each)):
        path = kinds.folder / f"flags{number}"
        drawn = []
        for flag in draws.sample([name for name in names[kind.script] if name not in KEPT], draws.randint(1, 3)):
            number_of_values = draws.choice((1, 1, 1, 0, 2))
            drawn += [flag, *(draws.choice(draws.choice((NUMBERS, NUMBERS, WORDS))) for _ in range(number_of_values))]
        command = kind.command(path, *drawn)
        pid = kinds.scripts.start(*command)
        patience = threading.Timer(PATIENCE, kinds.scripts.send_signal, (pid, signal.SIGINT))
        patience.start()
        finished = kinds.scripts.wait(pid)
        patience.cancel()
        problem = problem_of(finished, (0, 2, 130))
        if not problem and "(see " in finished.stderr and path.exists():
            problem = "refused, but it left a folder"
        yield Outcome(as_shell(command), problem)
