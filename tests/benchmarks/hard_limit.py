"""Shows, under a hard limit on process memory, that On-NAS finishes a test task that the plain full search cannot.

    python -m tests.benchmarks.hard_limit --meta_cell runs/miniimagenet/meta_cell.pt --data_path data

Runs onnas.py on one whole 5-way 5-shot test task, on the CPU: each search first without a limit, then each at the same
limit. Exit status: 0 if On-NAS finishes under the limit and the full search runs out of memory, 1 if not, 2 if
onnas.py fails for another reason.

The limit is a child cgroup (version 2) with memory.max and no swap where one can be made, else RLIMIT_DATA. RLIMIT_AS
would say nothing: PyTorch maps gigabytes of addresses that it never touches. Linux only.
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from utils.errors import InputError
from utils.run.cli import ArgumentParser, place, real, run

MIB = 2**20
ONNAS = Path(__file__).resolve().parents[2] / "onnas.py"
TASK = "--n 5 --k 5 --q 1 --batch_size 15 --test_task_train_steps 5 --eval_epochs 1 --device cpu"
SEARCHES = {
    "full": "--search full --step_by_step 0 --split_num 1",
    "On-NAS": "--search onnas --step_by_step 1 --schedule leanest --split_num 5",
}
# RLIMIT_DATA counts the address space of threads' stacks and of malloc's arenas as well, used or not.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
CGROUP = "cgroup: memory.max, swap off"
RLIMIT = "RLIMIT_DATA: private writable memory"
MEASURES = {CGROUP: "memory.peak of the cgroup", RLIMIT: "largest VmData"}
# How an allocation that fails shows: in the last line of the output, or by a signal where nothing catches it.
MEMORY_MESSAGES = ("allocate memory", "bad_alloc", "MemoryError", "out of memory", "failed to map segment")
MEMORY_SIGNALS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Outcome:
    """A run of onnas.py.

    status: its exit status; of a signal, the negative number. last_line: of what it printed.
    resident_mib: the peak of its resident memory. limited_mib: the peak of what the limit counts, see MEASURES.
    out_of_memory: it failed, and for want of memory.
    """

    status: int
    last_line: str
    seconds: float
    resident_mib: float
    limited_mib: float
    out_of_memory: bool

    def __str__(self) -> str:
        if self.status == 0:
            return f"finished in {self.seconds:.0f} s"
        how = f"killed by {signal.Signals(-self.status).name}" if self.status < 0 else f"exit status {self.status}"
        return f"{how} after {self.seconds:.0f} s: {self.last_line or 'no message'}"


def parse_args():
    parser = ArgumentParser(prog="hard_limit.py", description=__doc__.splitlines()[0])
    parser.add_argument("--meta_cell", type=Path, required=True, metavar="FILE", help="of the data set, by tfml.py")
    parser.add_argument("--dataset", default="miniimagenet", help="any that onnas.py knows")
    parser.add_argument("--data_path", type=place, default=Path("data"), help="folder of the prepared data sets")
    parser.add_argument(
        "--limit_mib", type=real(1), metavar="MIB", help="default: midway between the two peaks without a limit"
    )
    return parser.parse_args()


def main():
    args = parse_args()
    if sys.platform != "linux":
        raise InputError("A hard limit on process memory needs Linux.")
    base = ["--meta_cell", str(args.meta_cell), "--dataset", args.dataset, "--data_path", str(args.data_path)]
    parent = cgroup_parent()
    method = RLIMIT if parent is None else CGROUP

    unlimited = {}
    for name, flags in SEARCHES.items():
        unlimited[name] = search([*base, *TASK.split(), *flags.split()], parent)
        if unlimited[name].status != 0:
            raise InputError(f"even without a limit, the {name} search does not finish: {unlimited[name]}")
        print(f"{name}, no limit: {unlimited[name]}", file=sys.stderr)
    limit = args.limit_mib or sum(outcome.limited_mib for outcome in unlimited.values()) / len(unlimited)

    limited = {}
    for name, flags in SEARCHES.items():
        limited[name] = search([*base, *TASK.split(), *flags.split()], parent, limit)
        if limited[name].status != 0 and not limited[name].out_of_memory:
            raise InputError(f"at {limit:.0f} MiB, the {name} search fails without a word of memory: {limited[name]}")
        print(f"{name}, {limit:.0f} MiB: {limited[name]}", file=sys.stderr)

    print(f"one test task of {args.dataset}, limit by {method}")
    for name, flags in SEARCHES.items():
        print(f"{name}: onnas.py {flags}")
    print(f"both: {TASK}, {' '.join(f'{key}={value}' for key, value in ENVIRONMENT.items())}\n")
    print(f"| search | no limit: VmHWM, MiB | no limit: {MEASURES[method]}, MiB | limit, MiB | under the limit |")
    print("| --- | --- | --- | --- | --- |")
    for name in SEARCHES:
        peaks = f"{unlimited[name].resident_mib:.0f} | {unlimited[name].limited_mib:.0f}"
        under_limit = str(limited[name]).replace("|", r"\|")  # a progress bar has some, if it was the last line
        print(f"| {name} | {peaks} | {limit:.0f} | {under_limit} |")
    if limited["On-NAS"].status != 0 or limited["full"].status == 0:
        print("\nNot shown: On-NAS has to finish under the limit, and the full search to fail.")
        sys.exit(1)


def search(flags: list[str], parent: Path | None, limit_mib: float | None = None) -> Outcome:
    """Runs onnas.py in a folder of its own.

    Args:
        parent: the cgroup to make the child's in; None limits by RLIMIT_DATA.
        limit_mib: None for no limit.
    """
    limit = None if limit_mib is None else int(limit_mib * MIB)
    with tempfile.TemporaryDirectory() as path, (Path(path) / "output").open("w+b") as output:
        command = [sys.executable, str(ONNAS), *flags, "--path", f"{path}/run"]
        if parent is None:
            status, seconds, resident, peak = watch(command, output, lambda: limit_data(limit))
            killed = -status in MEMORY_SIGNALS
        else:
            with child_cgroup(parent, limit) as cgroup:
                status, seconds, resident, _ = watch(command, output, lambda: enter(cgroup))
                peak = int((cgroup / "memory.peak").read_text())
                events = dict(line.split() for line in (cgroup / "memory.events").read_text().splitlines())
                killed = int(events["oom_kill"]) > 0
        output.seek(0)
        lines = output.read().decode(errors="replace").split("\n")
    # A progress bar overwrites its own line.
    last_line = next((line.split("\r")[-1].strip() for line in reversed(lines) if line.strip()), "")
    out_of_memory = status != 0 and (killed or any(message in last_line for message in MEMORY_MESSAGES))
    return Outcome(status, last_line, seconds, resident / MIB, peak / MIB, out_of_memory)


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
