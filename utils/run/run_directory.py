"""The folder that a run writes into (--path)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.errors import InputError
from utils.run.files import replacing, write_json


def check_run(path: Path, args: dict, script: str, holds: tuple[str, ...], may_change: tuple[str, ...]) -> dict:
    """Checks that a run of ``script`` may write into a folder; changes nothing.

    Args:
        args: every flag's value, "resume" among them.
        holds: names of the files that tell that a run is there.
        may_change: flags that may differ between a run and its continuation.

    Returns:
        The plain values for ``args.json``: the flags, but not how the run was started.

    Raises:
        InputError: the folder holds another script's run, one with other settings, or one and ``resume`` is off.
    """
    values = {
        flag: str(value) if isinstance(value, Path) else value for flag, value in args.items() if flag != "resume"
    }
    values = {"script": script, **values}
    there = [name for name in holds if (path / name).exists()]
    earlier = _read_settings(path / "args.json")
    if earlier and earlier.get("script") != script:
        raise InputError(
            f"--path {path} holds a run of {earlier.get('script', 'another program')}: name another folder."
        )
    if not there:
        return values
    if not args["resume"]:
        raise InputError(f"--path {path} already holds a run: pass --resume to go on with it, or name another folder.")
    if not earlier or holds[0] not in there:
        missing = holds[0] if earlier else "args.json"
        raise InputError(f"--path {path} holds {there[0]} but no {missing} to go on from: name another folder.")
    for flag, value in values.items():
        # A flag that the earlier run did not know yet says nothing of it.
        if flag not in may_change and flag in earlier and earlier[flag] != value:
            raise InputError(f"--resume needs the run's own settings: --{flag} was {earlier[flag]}, not {value}.")
    return values


def open_run(path: Path, values: dict) -> None:
    """Makes the folder and writes ``args.json``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder --path {path}: {error.strerror}.") from error
    write_json(path / "args.json", values)


def _read_settings(path: Path) -> dict | None:
    """The settings of an earlier run, None where there is none."""
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}, the settings of the run in that folder: {error}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} does not hold the settings of a run: name another folder.")
    return values


class JsonLines:
    """A file of one JSON object a line, appended as the work goes on.

    Args:
        keep: whether an object of an earlier run stays, by its number and itself. The first that does not, or a line
            that is cut short, ends what is kept.
    """

    def __init__(self, path: Path, keep: Callable[[int, dict], bool]):
        self.path = path
        self.kept = list(read_lines(path, keep))
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.kept))

    def append(self, row: dict) -> None:
        """Writes one object; keys whose value is None do not apply and are left out."""
        line = json.dumps({key: value for key, value in row.items() if value is not None})
        try:
            with self.path.open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}.") from error


def read_lines(path: Path, keep: Callable[[int, dict], bool] = lambda number, row: True) -> Iterator[dict]:
    """The JSON objects of a file, one a line, up to the first that is not to be kept or is cut short; see JsonLines."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes().splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            return
        if not isinstance(row, dict) or not keep(number, row):
            return
        yield row
