"""The first lines of a script: Ctrl-C, memory limits, standard streams and warnings while it has yet to import."""

import ast
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

MIB = 2**20
HEAD = """
import os, signal, sys, time
from utils.run import start
start.begin("x.py")
start.SPIN_SECONDS = 0.2
"""
TAIL = """
from utils.run.cli import run
run(main, "x.py", "the work is safe.")
"""


def start(imports: str, main: str = "pass", **options) -> subprocess.Popen:
    """Starts a script, with what stands for its imports and for its main."""
    lines = "".join(f"\n    {line}" for line in main.splitlines())
    text = f"{HEAD}\n{imports}\ndef main():{lines}\n{TAIL}"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    default = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 - a shell may ignore it
    return subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, **{"preexec_fn": default, **options})


def ended(process: subprocess.Popen) -> tuple[int, str]:
    stderr = process.communicate(timeout=60)[1]
    return process.returncode, stderr


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (200 * MIB, 200 * MIB))


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_interrupted_while_it_imports():
    process = start("print('importing', flush=True)\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "x.py: interrupted before it began.\n")


def test_a_package_that_is_not_installed_is_named():
    said = "x.py: error: the Python package no_such_package is not installed: pip install -r requirements.txt.\n"
    assert ended(start("import no_such_package")) == (2, said)


def test_interrupted_in_a_destructor():
    """Python itself drops what a destructor raises."""
    dropping = "class Dropped:\n    def __del__(self): signal.raise_signal(signal.SIGINT)"
    status, said = ended(start(dropping, "Dropped()\ntime.sleep(30)"))
    assert (status, said.strip()) == (130, "x.py: interrupted; the work is safe.")


def test_an_interrupt_that_is_swallowed_comes_again():
    """As native code does that asks for an attribute and takes any exception for "there is none"."""
    swallowing = "try: signal.raise_signal(signal.SIGINT)\nexcept BaseException: pass\ntime.sleep(30)"
    status, said = ended(start("", swallowing))
    assert (status, said.strip()) == (130, "x.py: interrupted; the work is safe.")


def test_an_ignored_interrupt_stays_ignored():
    ignoring = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    process = start("os.kill(os.getpid(), signal.SIGINT)", "os.kill(os.getpid(), signal.SIGINT)", preexec_fn=ignoring)
    assert ended(process) == (0, "")


def commands() -> list[Path]:
    """Every file that is started as a program; utils/classify.py is copied away, and imports nothing of the project."""
    rooms = ("*.py", "models/**/*.py", "search_space/**/*.py", "utils/**/*.py")
    files = [file for room in rooms for file in sorted(ROOT.glob(room)) if file.name != "classify.py"]
    return [file for file in files if 'if __name__ == "__main__":' in file.read_text()]


@pytest.mark.parametrize("file", commands(), ids=lambda file: str(file.relative_to(ROOT)))
def test_every_command_begins_before_it_imports(file):
    _docstring, head, beginning, *_ = ast.parse(file.read_text()).body
    assert ast.unparse(head) == "from utils.run.start import begin"
    assert ast.unparse(beginning).startswith("if __name__ == '__main__':\n    begin('")


# --- Memory limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "imports",
    [
        "bytearray(2**29)",
        "import ctypes, faulthandler; faulthandler.enable(); ctypes.string_at(0)",
        "import os; os.write(2, b'cannot allocate memory for thread-local data: ABORT'); os._exit(127)",
        "while True: pass",
        "kept = bytearray(170 * 2**20)",
    ],
    ids=["exception", "crash", "no room for a thread", "spin", "nothing left"],
)
def test_imports_that_do_not_fit_are_refused(imports):
    begun = time.monotonic()
    status, said = ended(start(imports, preexec_fn=limit_memory))
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith("x.py: error: out of memory: PyTorch does not fit in the 200 MiB of ulimit -d")
    assert time.monotonic() - begun < 50


def test_what_imports_that_fit_have_said_is_passed_on():
    status, said = ended(
        start("print('a warning', file=sys.stderr)", "print('late', file=sys.stderr)", preexec_fn=limit_memory)
    )
    assert (status, said) == (0, "a warning\nlate\n")


def test_full_standard_error_loses_no_work_within_a_limit():
    with Path("/dev/full").open("w") as full:
        process = start("print('a warning', file=sys.stderr)", "print('worked')", preexec_fn=limit_memory, stderr=full)
        assert process.communicate(timeout=60)[0] == "worked\n"


def test_imports_that_fit_are_followed_by_the_work_once():
    process = start("", "print('worked')", preexec_fn=limit_memory)
    assert process.communicate(timeout=60) == ("worked\n", "")
    assert process.returncode == 0


def test_what_is_not_installed_is_said_whatever_the_limit():
    status, said = ended(start("import no_such_module", preexec_fn=limit_memory))
    assert status == 2
    assert "no_such_module is not installed" in said


def test_work_that_does_not_fit_says_in_what():
    status, said = ended(start("", "bytearray(2**29)", preexec_fn=limit_memory))
    assert (status, said) == (
        2,
        "x.py: error: out of memory in the 200 MiB of ulimit -d: close other programs.\n",
    )


def test_a_crash_for_want_of_memory_is_one_sentence():
    status, said = ended(start("", "os.kill(os.getpid(), signal.SIGSEGV)", preexec_fn=limit_memory))
    what = "out of memory in the 200 MiB of ulimit -d: PyTorch has crashed of it: raise the limit."
    assert (status, said) == (2, f"\nx.py: error: {what}\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_reaches_the_work_within_a_limit(number, status):
    def limited() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        limit_memory()

    process = start("", "print('at work', flush=True)\ntime.sleep(60)", preexec_fn=limited)
    process.stdout.readline()
    process.send_signal(number)
    assert ended(process)[0] == status


def test_the_work_within_a_limit_ends_with_the_process_that_watches_it():
    process = start("", "print(os.getpid(), flush=True)\ntime.sleep(60)", preexec_fn=limit_memory)
    worker = int(process.stdout.readline())
    assert worker != process.pid
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.05)
    assert time.monotonic() < deadline


# --- Standard streams -----------------------------------------------------------------------------------------------

WORK = "for _ in range(3):\n    print('x' * 9999, flush=True)\n    print('bar', file=sys.stderr)\nprint('done')\n"
WORK += "with open(os.environ['WORK'], 'w') as file: file.write('whole')"


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """The file that the script writes after it has printed."""
    monkeypatch.setenv("WORK", str(tmp_path / "work"))
    return tmp_path / "work"


def test_full_output_loses_no_work_and_is_said(work):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        status, said = ended(start("", WORK, stdout=full))
    assert work.read_text() == "whole"
    assert status == 2
    assert said.splitlines()[3:] == [
        "x.py: error: the work is done, but standard output cannot be written to: No space left on device."
    ]


def test_reader_that_goes_away_loses_no_work_and_is_said(work):
    process = start("", WORK)
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == 2
    assert work.read_text() == "whole"
    assert said.splitlines()[3:] == [
        "x.py: error: the work is done, but standard output cannot be written to: Broken pipe."
    ]


def test_full_standard_error_loses_no_work(work):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = start("", WORK, stderr=full)
    assert process.communicate(timeout=60)[0].endswith("done\n")
    assert process.returncode == 2
    assert work.read_text() == "whole"


def test_name_that_is_no_text_can_be_printed():
    process = start("", "print('caf\\udce9')")
    assert process.communicate(timeout=60) == ("caf\\udce9\n", "")


def test_closed_streams_are_not_taken_for_the_next_files(work):
    process = start("", f"{WORK}\nos.write(2, b'from native code')", preexec_fn=lambda: os.closerange(0, 3))
    assert process.wait(60) == 0
    assert work.read_text() == "whole"


# --- Warnings -------------------------------------------------------------------------------------------------------


def test_warning_of_a_library_is_one_sentence_without_its_place():
    warn = "import warnings\nwarnings.warn('it is old (Triggered internally at /a/b.cpp:3.)\\nmore', stacklevel=1)"
    assert ended(start("", warn)) == (0, "warning: it is old\n")
