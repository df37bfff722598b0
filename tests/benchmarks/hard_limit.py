"""The smallest hard limit on process memory in which one test task finishes, by each way to search.

    python -m tests.benchmarks.hard_limit --dataset omniglot --meta_cell checkpoints/omniglot.pt --data_path data

Runs onnas.py on one whole 5-way 5-shot test task on the CPU, without a limit and then within limits, by bisection. With
--network and --photographs utils/classify.py is a row, too. A run that does not fit has to end in one sentence.

The limit is a child cgroup (version 2) with memory.max and no swap where one can be made, else RLIMIT_DATA. RLIMIT_AS
would say nothing: PyTorch maps gigabytes of addresses that it never touches. Linux only.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from utils.errors import InputError
from utils.run.cli import ArgumentParser, place, run

MIB = 2**20
ROOT = Path(__file__).resolve().parents[2]
TASK = "--n 5 --k 5 --q 1 --batch_size 15 --test_task_train_steps 5 --eval_epochs 1"
LIGHT = "--device cpu --report 0 --tensorboard 0"
SEARCHES = {
    "`full`, all at once": "--search full --step_by_step 0",
    "`full`, step by step": "--search full --schedule leanest --split_num 5",
    "`onnas`, step by step": "--search onnas --schedule leanest --split_num 5",
}
CLASSIFY = "`utils.classify`"
# RLIMIT_DATA counts the address space of threads' stacks and of malloc's arenas as well, used or not.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
CGROUP = "cgroup: memory.max, swap off"
RLIMIT = "RLIMIT_DATA: private writable memory"
FINE = 1.02  # the smallest limit is known to this ratio
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Outcome:
    """A run: its exit status and last line; the peaks of resident memory and of what the limit counts; its seconds."""

    status: int
    last_line: str
    seconds: float
    resident_mib: float
    limited_mib: float


def parse_args():
    parser = ArgumentParser(prog="hard_limit.py", description=__doc__.splitlines()[0])
    parser.add_argument("--meta_cell", type=place, required=True, metavar="FILE", help="of the data set, by tfml.py")
    parser.add_argument("--dataset", default="miniimagenet", help="any that onnas.py knows")
    parser.add_argument("--data_path", type=place, default=Path("data"), help="folder of the prepared data sets")
    parser.add_argument("--network", type=place, metavar="FILE", help="exported by onnas.py, for utils/classify.py")
    parser.add_argument("--photographs", type=place, metavar="DIR", help="what it classifies")
    args = parser.parse_args()
    if (args.network is None) != (args.photographs is None):
        parser.error("--network and --photographs go together")
    return args


def main():
    args = parse_args()
    if sys.platform != "linux":
        raise InputError("A hard limit on process memory needs Linux.")
    parent = cgroup_parent()
    data = ["--meta_cell", args.meta_cell, "--dataset", args.dataset, "--data_path", args.data_path]
    task = [*data, *TASK.split(), *LIGHT.split()]
    ways = {name: [ROOT / "onnas.py", *task, *flags.split()] for name, flags in SEARCHES.items()}
    if args.network is not None:
        ways[CLASSIFY] = [ROOT / "utils" / "classify.py", args.network, args.photographs]
    print(f"one test task of {args.dataset}, limit by {RLIMIT if parent is None else CGROUP}")
    print("".join(f"{name}: {flags}\n" for name, flags in SEARCHES.items()))
    print("| | seconds | no limit: resident, MiB | no limit: what is limited, MiB | smallest limit, MiB |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for name, command in ways.items():
        free = attempt(command, parent)
        if free.status != 0:
            raise InputError(f"even without a limit, {name} does not finish: {free.last_line}")
        peaks = f"{free.seconds:.0f} | {free.resident_mib:.0f} | {free.limited_mib:.0f}"
        print(f"| {name} | {peaks} | {smallest_limit(name, command, parent, free):.0f} |", flush=True)


def smallest_limit(name: str, command: list, parent: Path | None, free: Outcome) -> float:
    """In MiB, that ``command`` finishes in; ``free`` is its run without one.

    Raises:
        InputError: in a smaller limit it did not end in a sentence.
    """
    too_little, enough = 16.0, free.limited_mib * FINE
    with tqdm(desc=name.replace("`", ""), unit="run") as bar:
        while enough > too_little * FINE:
            limit = (enough + too_little) / 2
            outcome = attempt(command, parent, limit)
            if outcome.status == 0:
                enough = limit
            elif outcome.status == 2 or (parent is not None and outcome.status < 0):  # a cgroup's limit kills
                too_little = limit
            else:
                raise InputError(f"in {limit:.0f} MiB {name} ends with {outcome.status}: {outcome.last_line}")
            bar.set_postfix_str(f"{too_little:.0f} to {enough:.0f} MiB")
            bar.update()
    return enough


def attempt(command: list, parent: Path | None, limit_mib: float | None = None) -> Outcome:
    """Runs a Python program in a folder of its own.

    Args:
        parent: the cgroup to make the child's in; None limits by RLIMIT_DATA.
        limit_mib: None for no limit.
    """
    limit = None if limit_mib is None else int(limit_mib * MIB)
    with tempfile.TemporaryDirectory() as path, (Path(path) / "output").open("w+b") as output:
        of_run = ["--path", f"{path}/run"] if command[0].name == "onnas.py" else ["--csv", f"{path}/labels.csv"]
        argv = [sys.executable, *map(str, command), *of_run]
        if parent is None:
            status, seconds, resident, peak = watch(argv, output, lambda: limit_data(limit))
        else:
            with child_cgroup(parent, limit) as cgroup:
                status, seconds, resident, _ = watch(argv, output, lambda: enter(cgroup))
                peak = int((cgroup / "memory.peak").read_text())
        output.seek(0)
        lines = output.read().decode(errors="replace").split("\n")
    # A progress bar overwrites its own line.
    last_line = next((line.split("\r")[-1].strip() for line in reversed(lines) if line.strip()), "")
    return Outcome(status, last_line, seconds, resident / MIB, peak / MIB)


def watch(command: list[str], output, prepare) -> tuple[int, float, int, int]:
    """Runs a command to its end: exit status, seconds, and the peaks of resident memory and of VmData in bytes.

    Args:
        output: the open file that takes what it prints.
        prepare: is called in the child before it becomes the command.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **ENVIRONMENT},
        preexec_fn=prepare,
    )
    peak = 0
    try:
        # wait4, since the kernel keeps the peak of resident memory itself; it keeps none of VmData.
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            peak = max(peak, data_bytes(process.pid))
            time.sleep(POLL_SECONDS)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
    return process.returncode, time.perf_counter() - started, ended[2].ru_maxrss * 1024, peak


def data_bytes(pid: int) -> int:
    """VmData of a process, the very count that RLIMIT_DATA bounds; 0 once it has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def limit_data(limit: int | None) -> None:
    """Bounds this process's private writable memory."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def enter(cgroup: Path) -> None:
    """Moves this process into a cgroup."""
    (cgroup / "cgroup.procs").write_text("0")


@contextmanager
def child_cgroup(parent: Path, limit: int | None) -> Iterator[Path]:
    """A new cgroup in ``parent``, of ``limit`` bytes and without swap; it is removed in the end."""
    cgroup = Path(tempfile.mkdtemp(prefix="hard_limit_", dir=parent))
    try:
        (cgroup / "memory.max").write_text("max" if limit is None else str(limit))
        if (cgroup / "memory.swap.max").exists():  # a kernel without swap has no such file
            (cgroup / "memory.swap.max").write_text("0")
        yield cgroup
    finally:
        cgroup.rmdir()


def cgroup_parent() -> Path | None:
    """The nearest cgroup, from this process's own upwards, in which a child's memory can be limited; None: nowhere."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    if root is None or not own:
        return None
    place = root / own[0].lstrip("/")
    for parent in (place, *place.parents):
        if not parent.is_relative_to(root):
            return None
        try:
            if "memory" not in (parent / "cgroup.subtree_control").read_text().split():
                continue
            with child_cgroup(parent, None) as cgroup:
                (cgroup / "memory.peak").read_text()  # Linux 5.19 or newer
                # Files that can be written do not yet mean that a process may be moved there.
                subprocess.run(["true"], check=True, preexec_fn=lambda cgroup=cgroup: enter(cgroup))
        except (OSError, subprocess.SubprocessError):
            continue
        return parent
    return None


if __name__ == "__main__":
    run(main, "hard_limit.py", "nothing was written.")
