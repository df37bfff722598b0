"""Running tfml.py and onnas.py as real processes that start at once: forked from one that has imported torch."""

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from search_space.meta import batched_search

pytest_plugins = ["tests.sources", "tests.full_task_runs"]  # fixtures

ROOT = Path(__file__).parent.parent
TIME_LIMIT = 120  # seconds; none of the runs takes more than a few
OUTPUTS = ("stdout", "stderr")
WRITES = os.O_WRONLY | os.O_RDWR

# A shell starts what runs in the background with Ctrl-C ignored, and so would be the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

TASKS = "--dataset synthetic --n 3 --k 2 --q 4 --device cpu --w_lr 0.05 --test_task_train_steps 2 --eval_epochs 2"
NETWORK = "--layers 2 --reduction_layers 1 --nodes 1 --init_channels 4"
PLAIN = "--report 0 --tensorboard 0"  # pictures take longer than the rest of a tiny run
TRAINING = "--n_train 3 --batch_size 6 --test_batch_size 6 --task_train_steps 1 --meta_batch_size 2"


@dataclass(frozen=True)
class Finished:
    """A process that has ended; a negative status is the signal that ended it."""

    status: int
    stdout: str
    stderr: str

    def succeeded(self) -> "Finished":
        assert self.status == 0, self.stderr
        return self

    def complaint(self, after_a_bar: bool = False) -> str:
        """The one line that a script says when it refuses; a progress bar may have come before it."""
        assert "Traceback" not in self.stderr, self.stderr
        assert self.status == 2, (self.status, self.stderr)
        *before, line = self.stderr.splitlines()
        assert after_a_bar or not before, self.stderr
        return line


class Scripts:
    """Starts the scripts, one at a time."""

    def __init__(self, folder: Path, time_limit: float = TIME_LIMIT):
        self._folder, self._time_limit = folder, time_limit
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, script: str, *argv: object, die_at: int = 0) -> int:
        """Starts a script and returns its process id.

        Args:
            die_at: the process kills itself before the die_at-th time that it opens a file for writing, renames or
                removes one; 0: it does not.
        """
        (pid,) = self._start([{"argv": [script, *argv], "die_at": die_at}])
        return pid

    def start_ranks(self, number: int, script: str, *argv: object) -> list[int]:
        """Starts a script in several processes, as torchrun does; returns their ids."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environments = [{"RANK": rank, "LOCAL_RANK": rank, **shared} for rank in range(number)]
        return self._start([{"argv": [script, *argv], "environment": changes} for changes in environments])

    def start_each(self, commands: list[tuple], **environment: object) -> list[int]:
        """Starts several scripts at once, with additions to their environment; returns their ids."""
        return self._start([{"argv": command, "environment": environment} for command in commands])

    def _start(self, requests: list[dict]) -> list[int]:
        for number, request in enumerate(requests):
            request |= {"folder": str(self._folder), "number": number, "argv": list(map(str, request["argv"]))}
        self._server.stdin.write(json.dumps(requests) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    @staticmethod
    def send_signal(pid: int, number: signal.Signals) -> None:
        """Sends a signal; the script may have ended by itself, and is to be waited for all the same."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def wait(self, pid: int) -> Finished:
        """Waits for a script."""
        (finished,) = self.wait_for_each(pid)
        return finished

    def wait_for_each(self, *pids: int) -> list[Finished]:
        """Waits for scripts that were started at once."""
        alarms = [threading.Timer(self._time_limit, self.send_signal, (pid, signal.SIGKILL)) for pid in pids]
        for alarm in alarms:
            alarm.start()
        statuses = json.loads(self._server.stdout.readline())
        for alarm in alarms:
            alarm.cancel()
        places = range(len(pids))
        outputs = [[(self._folder / f"{name}.{place}").read_text() for name in OUTPUTS] for place in places]
        return [Finished(status, *output) for status, output in zip(statuses, outputs, strict=True)]

    def run(self, script: str, *argv: object, die_at: int = 0) -> Finished:
        return self.wait(self.start(script, *argv, die_at=die_at))

    @staticmethod
    def tfml_flags(path: Path, *flags: object) -> list:
        """A tiny run; later flags beat earlier ones."""
        defaults = f"{TASKS} {NETWORK} {TRAINING} --meta_epochs 4 --warm_up_epochs 2 --eval_freq 2 {PLAIN}"
        return ["--path", path, *defaults.split(), *flags]

    @staticmethod
    def onnas_flags(meta_cell: Path, path: Path, *flags: object) -> list:
        return ["--meta_cell", meta_cell, "--path", path, *f"{TASKS} --batch_size 6 {PLAIN}".split(), *flags]

    def tfml(self, path: Path, *flags: object, die_at: int = 0) -> Finished:
        return self.run("tfml.py", *self.tfml_flags(path, *flags), die_at=die_at)

    def onnas(self, meta_cell: Path, path: Path, *flags: object, die_at: int = 0) -> Finished:
        return self.run("onnas.py", *self.onnas_flags(meta_cell, path, *flags), die_at=die_at)

    def end(self) -> None:
        self._server.stdin.close()
        self._server.wait()


@pytest.fixture(scope="session")
def scripts(tmp_path_factory):
    scripts = Scripts(tmp_path_factory.mktemp("scripts"))
    yield scripts
    scripts.end()


@pytest.fixture(scope="session")
def trained(scripts, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run of tfml.py, with its report. Not to be written to."""
    path = tmp_path_factory.mktemp("trained") / "run"
    scripts.tfml(path, "--report", 1).succeeded()
    return path


@pytest.fixture(autouse=True)  # of every test: some run a script's main in this process
def restored_process():
    """What a script sets up for its process, and a test's is to be without."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)}
    hook, streams = sys.unraisablehook, (sys.stdout, sys.stderr)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.unraisablehook, (sys.stdout, sys.stderr) = hook, streams


@pytest.fixture
def tiny_disk(tmp_path):
    """A folder on a file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def compiled_passes(monkeypatch):
    """torch.compile traces and differentiates as on a GPU, but runs the result by PyTorch; a list of what it ran."""
    passes, compile_ = [], torch.compile

    def traced(function, mode, **flags):
        assert mode == "reduce-overhead"  # on a GPU: CUDA graphs
        compiled = compile_(function, backend="aot_eager", **flags)

        def run(net, images, *arguments):
            passes.append(tuple(images.shape))
            return compiled(net, images, *arguments)

        return run

    monkeypatch.setattr(torch, "compile", traced)
    batched_search._compiled_pass.cache_clear()
    yield passes
    batched_search._compiled_pass.cache_clear()
    torch.compiler.reset()


def fill(folder: Path) -> Path:
    """Fills the file system of a folder to the last byte, with a file that is returned."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


def write_omniglot(folder: Path, alphabet: str = "Latin", **characters: int) -> Path:
    """Random drawings, prepared, with so many characters in each of Vinyals' splits (4 if not given); the folder."""
    path, splits = folder / "omniglot", {"train": [], "val": [], "test": []}
    path.mkdir(parents=True)
    with h5py.File(path / "data.hdf5", "w") as file:
        for seed, split in enumerate(splits):
            for number in range(characters.get(split, 4)):
                splits[split].append(["images_background", alphabet, f"{split}{number}"])
                drawings = np.random.default_rng((seed, number)).integers(0, 256, (20, 105, 105), np.uint8)
                file["/".join(splits[split][-1])] = drawings
    labels = {"train": [], "test": [], **{f"vinyals_{split}": names for split, names in splits.items()}}
    for name, listed in labels.items():
        (path / f"{name}_labels.json").write_text(json.dumps(listed))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, but for locks."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def rows(path: Path, without: tuple[str, ...] = ()) -> list[dict]:
    """The objects of a file of JSON lines, without some keys."""
    values = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in without} for row in values]


def wait_for(condition) -> None:
    """Waits until ``condition()`` is true."""
    end = time.monotonic() + TIME_LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# --- The process that the scripts are forked from -------------------------------------------------------------------

# The scripts, and what they import when they need it.
IMPORTED = (
    "tfml",
    "onnas",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "search_space.board.board",
    "search_space.exporting",
    "search_space.full_task.run",
    "torch._dynamo",
    "torch._subclasses.fake_tensor",
    "torch.utils.tensorboard",
    "utils.report",
    "utils.report.page",
)


def serve() -> dict | None:
    """Forks once for every line of stdin; returns the request in the child, None at the end of the input."""
    for name in IMPORTED:
        importlib.import_module(name)

    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    for line in sys.stdin:
        pids = []
        for request in json.loads(line):
            pids.append(os.fork())
            if pids[-1] == 0:
                return request
        print(json.dumps(pids), flush=True)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)
    return None


def die_at(number: int) -> None:
    """Kills this process before its ``number``-th change to files of the run."""
    left = number

    def count(event: str, args: tuple) -> None:
        nonlocal left
        writes = event == "open" and isinstance(args[2], int) and args[2] & WRITES
        if writes or event in ("os.rename", "os.remove"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def become(request: dict) -> None:
    """Turns this process into the script of a request."""
    for descriptor, name in enumerate(("stdin", *OUTPUTS)):
        file = os.open(Path(request["folder"]) / f"{name}.{request['number']}", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.update({name: str(value) for name, value in request.get("environment", {}).items()})
    os.chdir(request["folder"])
    # What a run has now and two GiB: a file that asks for more must be refused, not obeyed.
    memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2**31
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    sys.argv = request["argv"]
    if request.get("die_at"):
        die_at(request["die_at"])
    status = 0
    try:
        runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    # Leaves as Python does, but does not spend half a second on taking every module apart.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


if __name__ == "__main__" and (request := serve()):
    become(request)
