"""The folder that a run writes into (--path)."""

import json
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from utils.errors import InputError, WriteError
from utils.run.files import read_file, write_json

LOCK = ".lock"  # in the folder; it stays there, and says which process holds or held it
MAX_SETTINGS = 2**20  # bytes of args.json

_locks: dict[Path, FileLock] = {}  # held until this process ends, however it ends


# --- One process at a time ------------------------------------------------------------------------------------------


def lock_folder(path: Path) -> None:
    """Keeps other processes from writing into a folder, made if it is not there, until this one ends.

    Raises:
        InputError: another process writes into it.
        WriteError: the folder cannot be made, or not be written to.
    """
    place = path.absolute() / LOCK
    if place in _locks:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot make the folder --path {path}: {error.strerror}.") from error
    lock = FileLock(place, blocking=False)
    try:
        lock.acquire()
        place.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    except Timeout:
        writer = read_file(place, MAX_SETTINGS).decode(errors="replace") or "another process"
        raise InputError(f"{writer} is writing into --path {path}: wait for its end, or name another folder.") from None
    except OSError as error:
        raise WriteError(f"cannot write {place}: {error.strerror or error}.") from error
    _locks[place] = lock


def still_there(path: Path) -> None:
    """Raises:
    InputError: the folder was locked, and has been deleted or replaced since.
    """
    place = path.absolute() / LOCK
    if place not in _locks:
        return
    try:
        own = place.read_text().startswith(f"process {os.getpid()} ")
    except FileNotFoundError:
        own = False
    if not own:
        raise InputError(f"--path {path} was deleted while the run was writing into it: the run stops.")


# --- Settings -------------------------------------------------------------------------------------------------------


def check_run(path: Path, args: dict, script: str, holds: tuple[str, ...], may_change: tuple[str, ...]) -> dict:
    """Checks that a run of ``script`` may write into a folder, and locks it if it is there; changes nothing.

    Args:
        args: every flag's value, "resume" among them.
        holds: names of the files that tell that a run is there.
        may_change: flags that may differ between a run and its continuation.

    Returns:
        The plain values for ``args.json``: the flags, but not how the run was started.

    Raises:
        InputError: the folder holds another script's run, one with other settings, or one and ``resume`` is off; or
            another process writes into it.
    """
    values = {
        flag: str(value) if isinstance(value, Path) else value for flag, value in args.items() if flag != "resume"
    }
    values = {"script": script, **values}
    _check(path, values, args["resume"], holds, may_change)
    if path.exists():
        lock_folder(path)
        _check(path, values, args["resume"], holds, may_change)  # again: another process may have just ended
    return values


def _check(path: Path, values: dict, resume: bool, holds: tuple[str, ...], may_change: tuple[str, ...]) -> None:
    there = [name for name in holds if (path / name).exists()]
    earlier = _read_settings(path / "args.json")
    if earlier and earlier.get("script") != values["script"]:
        raise InputError(
            f"--path {path} holds a run of {earlier.get('script', 'another program')}: name another folder."
        )
    if not there:
        return
    if not resume:
        raise InputError(f"--path {path} already holds a run: pass --resume to go on with it, or name another folder.")
    if not earlier or holds[0] not in there:
        missing = holds[0] if earlier else "args.json"
        raise InputError(f"--path {path} holds {there[0]} but no {missing} to go on from: name another folder.")
    for flag, value in values.items():
        if flag not in may_change and earlier.get(flag) != value:
            raise InputError(f"--resume needs the run's own settings: --{flag} was {earlier.get(flag)}, not {value}.")


def open_run(path: Path, values: dict) -> None:
    """Makes and locks the folder, if check_run found none, and writes ``args.json``.

    Raises:
        InputError: the folder cannot be made, or another process has just begun a run there.
    """
    if path.absolute() / LOCK not in _locks:
        lock_folder(path)
        if (path / "args.json").exists():
            raise InputError(f"another process has just begun a run in --path {path}: name another folder.")
    write_json(path / "args.json", values)


def _read_settings(path: Path) -> dict | None:
    """The settings of an earlier run, None where there is none."""
    if not path.exists():
        return None
    try:
        values = json.loads(read_file(path, MAX_SETTINGS))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}; name another folder.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} does not hold the settings of a run: name another folder.")
    return values
