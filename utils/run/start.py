"""The first lines of a script, before PyTorch is imported: that takes seconds, so nothing heavy is imported here.

From here on Ctrl-C, a memory limit in which PyTorch does not fit, a closed standard stream or one that cannot be
written to, and a library's warning each end in one line, or in none.
"""

from __future__ import annotations

import _signal as signal  # in C; signal.py takes as long to import as Python to start, and Ctrl-C could come meanwhile
import os
import resource
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import NoReturn, TextIO

MIB = 2**20
ULIMITS = {"v": resource.RLIMIT_AS, "d": resource.RLIMIT_DATA}  # by the letter of the shell's ulimit
HEADROOM = 64 * MIB  # what must be left after the imports
SPIN_SECONDS = 4  # of computing without one new page of memory; imports touch new pages all the time
LONGEST_IMPORTS = 300  # seconds of computing
DIE_WITH_PARENT = 1  # prctl's number for it
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
NO_THREAD_DATA = 127  # exit status with which the C library gives up where a thread's variables do not fit
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Of a process that is watched: where it tells the end of its imports, and its standard error.
_watched: tuple[int, int] | None = None


def begin(prog: str) -> None:
    """Prepares a script's process; within a memory limit it goes on in a process of its own, which is watched."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores it
        signal.signal(signal.SIGINT, lambda *_: _leave(f"{prog}: interrupted before it began.", 130))
    open_standard_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    import warnings  # here, as what comes before it is not in one line when Ctrl-C comes

    warnings.showwarning = _show_warning
    limit = memory_limit() if "torch" not in sys.modules else None
    sys.excepthook = lambda kind, error, trace: _end_imports(prog, limit, kind, error, trace)
    if limit is not None:
        _go_on_watched(prog, limit)


def imports_are_done() -> None:
    """From here on an exception is the script's own matter.

    Raises:
        MemoryError: too little is left to work in.
    """
    if _watched is not None:
        bytearray(HEADROOM)
        told, errors = _watched
        kept_back = os.dup(2)
        os.dup2(errors, 2)
        _pass_on(kept_back)
        os.write(told, b".")
    sys.excepthook = sys.__excepthook__


def raise_interrupts() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt; to be called where it is caught."""
    sys.unraisablehook = _take_lost_exception
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)


def interrupt_is_taken() -> None:
    """KeyboardInterrupt was caught where it is to be, and is not raised again."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Raises KeyboardInterrupt, and once more every second until it is taken: native code may lose it."""
    signal.setitimer(signal.ITIMER_REAL, 1, 1)
    signal.default_int_handler(number, frame)


def not_installed(*packages: str) -> str:
    """What to say of Python packages that are absent."""
    plural = len(packages) > 1
    which = f"packages {' and '.join(packages)} are" if plural else f"package {packages[0]} is"
    return f"the Python {which} not installed: pip install -r requirements.txt"


def _end_imports(prog: str, limit: str | None, kind: type, error: BaseException, trace: TracebackType | None) -> None:
    """Says in one line what the imports have failed of: a package that is absent, or a memory limit."""
    if kind is ModuleNotFoundError:
        _leave(f"{prog}: error: {not_installed(error.name)}.", 2)
    if limit is not None:
        _leave(_does_not_fit(prog, limit), 2)
    sys.__excepthook__(kind, error, trace)


def _take_lost_exception(unraisable: sys.UnraisableHookArgs) -> None:
    """What is raised in a destructor or a callback is lost. KeyboardInterrupt is raised once more when that is over.

    Memory that is too little there is so for the work, too, which says it.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.01, 1)
    elif not issubclass(unraisable.exc_type, MemoryError):
        sys.__unraisablehook__(unraisable)


def _show_warning(message: Warning | str, category: type, filename: str, lineno: int, *_: object) -> None:
    """A warning is its first sentence or line, without the place in a library that it comes from."""
    print(f"warning: {str(message).splitlines()[0].split(' (Triggered internally')[0]}", file=sys.stderr)


def _leave(last_words: str, status: int) -> NoReturn:
    """Ends the process where nothing has been begun; of torchrun's processes the first says so."""
    try:
        if os.environ.get("RANK", "0") == "0":
            os.write(2, f"{last_words}\n".encode())
    finally:
        os._exit(status)


# --- Standard streams -----------------------------------------------------------------------------------------------


class SteadyStream:
    """A standard stream that remembers that it cannot be written to, in place of stopping the work.

    Attributes:
        error: why it cannot; None as long as it can.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action, *arguments: object) -> None:
        if self.error is None:
            try:
                action(*arguments)
            except OSError as error:
                self.error = error


def open_standard_streams() -> None:
    """Opens the standard streams that are closed, and makes output steady."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file that is opened would be taken for it, and written into
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, SteadyStream):
            setattr(sys, name, SteadyStream(stream or open(os.devnull, "w")))  # noqa: PTH123, SIM115 - until the end


def lost_output() -> str | None:
    """Which standard stream cannot be written to, and why; None where all that was printed has been written."""
    for name, stream in (("output", sys.stdout), ("error", sys.stderr)):
        stream.flush()
        if stream.error is not None:
            return f"standard {name} cannot be written to: {stream.error.strerror}"
    return None


# --- Memory limits --------------------------------------------------------------------------------------------------


def memory_limit() -> str | None:
    """The memory that a process may have by the shell's ulimit, in words; None without a limit."""
    soft = {letter: resource.getrlimit(which)[0] for letter, which in ULIMITS.items()}
    limited = {letter: limit for letter, limit in soft.items() if limit != resource.RLIM_INFINITY}
    if not limited:
        return None
    return " and ".join(f"the {limit // MIB} MiB of ulimit -{letter}" for letter, limit in limited.items())


def _does_not_fit(prog: str, limit: str) -> str:
    return f"{prog}: error: out of memory: PyTorch does not fit in {limit}: raise the limit."


def _go_on_watched(prog: str, limit: str) -> None:
    """Returns in a copy of this process; this one waits for it and ends as it does.

    In too little memory native code crashes, or while it is imported tries again for ever: no exception tells. What it
    writes of its crash is kept back.
    """
    global _watched
    reading, writing = os.pipe()
    errors = os.memfd_create("errors of the imports")
    parent, child = os.getpid(), os.fork()
    if not child:
        os.close(reading)
        _watched = writing, os.dup(2)
        os.dup2(errors, 2)
        import ctypes

        os.setpgid(0, 0)  # Ctrl-C reaches it once: by the process that watches it
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        return
    os.close(writing)
    for number in PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: os.kill(child, number))
    imported, spins = _watch_imports(child, reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    crashed = spins or -status in CRASHES or status == NO_THREAD_DATA
    if crashed and not imported:
        _leave(_does_not_fit(prog, limit), 2)
    if crashed:
        _leave(f"\n{prog}: error: out of memory in {limit}: PyTorch has crashed of it: raise the limit.", 2)
    if not imported:
        _pass_on(errors)
    if status >= 0:
        os._exit(status)
    signal.signal(-status, signal.SIG_DFL)
    os.kill(parent, -status)


def _pass_on(errors: int) -> None:
    """Writes what was written to a file to standard error, where that can be written to."""
    text = os.pread(errors, os.fstat(errors).st_size, 0)
    try:
        os.write(2, text)
    except OSError:
        return


def _watch_imports(child: int, told: int) -> tuple[bool, bool]:
    """Whether a process gets through its imports; and whether it spins, and was ended."""
    pages, since = 0, 0.0
    while not select.select([told], [], [], 0.05)[0]:
        pages_now, seconds = _pages_and_seconds(child)
        if pages_now != pages:
            pages, since = pages_now, seconds
        if seconds - since > SPIN_SECONDS or seconds > LONGEST_IMPORTS:
            os.kill(child, signal.SIGKILL)
            return False, True
    return os.read(told, 1) == b".", False


def _pages_and_seconds(process: int) -> tuple[int, float]:
    """How many pages a process has touched, and its seconds of computing."""
    with open(f"/proc/{process}/stat") as file:  # noqa: PTH123 - pathlib takes memory that may be scarce
        fields = file.read().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return int(fields[7]) + int(fields[9]), ticks / os.sysconf("SC_CLK_TCK")
