"""Tasks per second of tfml.py on one, two, ... processes.

    python -m tests.benchmarks.ranks
    python -m tests.benchmarks.ranks --ranks 1 2 4 --flags --dataset omniglot --data_path data --init_channels 8

Runs tfml.py by torchrun on each number of processes in turn, some rounds over, and prints the median over rounds of
tasks per second, from a run's metrics without its first and its last meta-epoch. All of them adapt weights only, unless
the flags say otherwise. --flags, the last flag, go to tfml.py.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from utils.errors import InputError
from utils.run.cli import ArgumentParser, run, whole

FLAGS = (
    "--dataset synthetic --init_channels 8 --layers 2 --reduction_layers 0 1 "
    "--meta_batch_size 8 --tasks_at_once 4 --n_train 5"
)


def tasks_per_second(ranks: int, flags: list[str], meta_epochs: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "--"]
        length = ["--meta_epochs", str(meta_epochs + 2), "--eval_freq", str(meta_epochs + 3), "--eval_epochs", "1"]
        command = [sys.executable, *launcher, "tfml.py", *flags, *length, "--path", folder]
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode:
            raise InputError(f"tfml.py failed on {ranks} processes: {finished.stderr}")
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    # The first meta-epoch warms up; in the last, with its meta-test, the memory meter slows a task.
    return median(row["tasks_per_second"] for row in rows[1:-1])


def main():
    parser = ArgumentParser(prog="ranks.py", description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=whole(1), nargs="+", default=[1, 2], help="numbers of processes")
    parser.add_argument("--rounds", type=whole(1), default=3, help="times that each is run")
    parser.add_argument("--meta_epochs", type=whole(1), default=5, help="meta-epochs that are measured")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=FLAGS.split(), help="of tfml.py")
    args = parser.parse_args()
    speeds = {ranks: [] for ranks in args.ranks}
    for _ in range(args.rounds):
        for ranks, measured in speeds.items():
            measured.append(tasks_per_second(ranks, args.flags, args.meta_epochs))
    print(f"tfml.py {' '.join(args.flags)}\n")
    print("| processes | tasks per second | speed-up | efficiency |\n| --- | --- | --- | --- |")
    first = args.ranks[0]
    for ranks, measured in speeds.items():
        ratio = median(one / base for one, base in zip(measured, speeds[first], strict=True))
        print(f"| {ranks} | {median(measured):.2f} | {ratio:.2f} | {ratio * first / ranks:.0%} |")


if __name__ == "__main__":
    run(main, "ranks.py", "nothing was written.")
