"""Runs within a limit of memory, from one in which PyTorch cannot be imported to one that is enough."""

import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle

from tests.campaign.judging import Outcome, problem_of
from tests.campaign.runs import Kinds, as_shell, real_process
from tests.conftest import ROOT

MIB = 2**20
SMALLEST = 100
ULIMITS = {"d": resource.RLIMIT_DATA, "v": resource.RLIMIT_AS}
PEAK_LINES = {"d": "VmData", "v": "VmPeak"}
IMPORTS = "import tfml, onnas; print(open('/proc/self/status').read())"


def memory(kinds: Kinds, times: int, draws: random.Random) -> Iterator[Outcome]:
    """Half of the limits anywhere from 100 MiB up, half near what the imports take."""
    status = subprocess.run(
        [sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    needs = {letter: int(status.split(f"{line}:")[1].split()[0]) // 1024 for letter, line in PEAK_LINES.items()}
    for number, kind, letter in zip(range(times), cycle(kinds.each), cycle("ddvv")):
        need = needs[letter]
        limit = draws.randint(SMALLEST, need) if number % 2 else draws.randint(int(0.9 * need), int(1.2 * need))
        command = kind.command(kinds.folder / f"limited{number}")
        finished = real_process(command, {ULIMITS[letter]: limit * MIB})
        yield Outcome(f"ulimit -{letter} {limit * 1024}; {as_shell(command)}", problem_of(finished))
