"""Tiny runs of each kind: meta-training, few-shot tasks, a full task."""

import contextlib
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests import full_task_runs, test_onnas, test_tfml
from tests.conftest import ROOT, Finished, Scripts

HANGS = 120  # seconds, after which a real process hangs: all of it takes ten


@dataclass(frozen=True)
class Kind:
    """Of run. flags: of its command line, for a folder. differ: raises AssertionError if two folders do."""

    script: str
    flags: Callable[[Path], list]
    differ: Callable[[Path, Path], None]
    reference: Path
    seconds: float

    def command(self, path: Path, *more: object) -> list:
        return [self.script, *self.flags(path), *more]


class Kinds:
    """One undisturbed run of each kind, in a folder; ``each`` lists them."""

    def __init__(self, scripts: Scripts, folder: Path):
        self.scripts, self.folder = scripts, folder
        self.images = folder / "images"
        draws = np.random.default_rng(0)
        for part in ("train", "test"):
            for label, name in enumerate(full_task_runs.CLASSES):
                (self.images / part / name).mkdir(parents=True)
                for image in range(9):
                    picture = full_task_runs.draw_image(draws, label)
                    picture.save(self.images / part / name / f"{image}.png")
        self.tfml = self._undisturbed("tfml.py", scripts.tfml_flags, test_tfml.assert_same_run)
        self.cell = self.tfml.reference / "meta_cell.pt"
        few_shot = lambda path, *flags: scripts.onnas_flags(self.cell, path, "--eval_epochs", 4, *flags)  # noqa: E731
        self.few_shot = self._undisturbed("onnas.py", few_shot, test_onnas.assert_same_run)
        full = full_task_runs.FullTask(scripts, self.images).flags
        self.full = self._undisturbed("onnas.py", full, full_task_runs.assert_same_run)
        self.each = (self.tfml, self.few_shot, self.full)

    def _undisturbed(self, script: str, flags: Callable, differ: Callable) -> Kind:
        path = self.folder / f"undisturbed{len(list(self.folder.iterdir()))}"
        started = time.monotonic()
        self.scripts.run(script, *flags(path)).succeeded()
        return Kind(script, flags, differ, path, time.monotonic() - started)


def as_shell(command: list) -> str:
    """A command as it is typed."""
    return f"python {shlex.join(map(str, command))}"


def real_process(
    command: list, limits: dict[int, int] | None = None, interrupted_after: float | None = None
) -> Finished:
    """Runs a command as a process that has everything yet to import.

    Args:
        limits: bytes, by the constants of resource. interrupted_after: seconds, after which Ctrl-C is pressed.
    """

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        for which, limit in (limits or {}).items():
            resource.setrlimit(which, (limit, limit))

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    argv = [sys.executable, *map(str, command)]
    with subprocess.Popen(argv, cwd=ROOT, env=environment, preexec_fn=prepare, **pipes) as process:
        with contextlib.suppress(ProcessLookupError):
            if interrupted_after is not None:
                time.sleep(interrupted_after)
                os.killpg(process.pid, signal.SIGINT)  # its workers, too, get it from a terminal
        try:
            stdout, stderr = process.communicate(timeout=HANGS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
    return Finished(process.returncode, stdout, stderr)
