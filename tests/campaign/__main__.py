"""The campaign's command: python -m tests.campaign. See __init__.py."""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.campaign.flags import flags
from tests.campaign.kills import double, interrupts, kills
from tests.campaign.memory import memory
from tests.campaign.mutations import files
from tests.campaign.runs import HANGS, Kinds
from tests.conftest import Scripts

CAMPAIGNS = {
    "kills": (kills, 200),
    "double": (double, 60),
    "interrupts": (interrupts, 40),
    "flags": (flags, 300),
    "files": (files, 300),
    "memory": (memory, 10),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.campaign", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=tuple(CAMPAIGNS), default=tuple(CAMPAIGNS))
    parser.add_argument("--seed", type=int, default=0, help="of what is tried")
    parser.add_argument("--times", type=int, help="how often each is tried (default: its own number, 10 to 300)")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="campaign"))
    scripts = Scripts(folder, HANGS)
    try:
        kinds = Kinds(scripts, folder)
        lines, faults = [], []
        for name in args.only:
            campaign, times = CAMPAIGNS[name]
            started, outcomes = time.monotonic(), []
            for outcome in campaign(kinds, args.times or times, random.Random(f"{args.seed} {name}")):
                outcomes.append(outcome)
                if outcome.problem:
                    print(f"{name} {len(outcomes)}: {outcome.problem}\n    {outcome.how}", file=sys.stderr, flush=True)
            found = [outcome for outcome in outcomes if outcome.problem]
            faults += [f"{name}: {outcome.problem}\n    {outcome.how}" for outcome in found]
            minutes = (time.monotonic() - started) / 60
            lines.append(f"| {name} | {len(outcomes)} | {len(outcomes) - len(found)} | {len(found)} | {minutes:.1f} |")
    finally:
        scripts.end()
    print("\n".join(["| | tried | held | faults | minutes |", "| --- | --- | --- | --- | --- |", *lines, "", *faults]))
    if faults:
        print(f"Files of the faults are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
