"""A log of rows, one JSON object a line, that is appended to as a run goes on."""

import json
from pathlib import Path
from typing import Generic, TypeVar

from utils.errors import WriteError
from utils.results.checking import as_values, damaged, from_values, parse_json, read_bytes
from utils.run.files import write_text
from utils.run.run_directory import still_there

Row = TypeVar("Row")


class RowLog(Generic[Row]):
    """A log in a run's folder.

    Args:
        kind: the dataclass of its rows, one of utils.results.log_rows.
        before: so many rows of an earlier life of the run stay; None: all of them.

    Attributes:
        rows: those that stayed, and those that were appended since.

    Raises:
        InputError: the file is damaged; it is as it was.
    """

    def __init__(self, path: Path, kind: type[Row], before: int | None = None):
        self.path = path
        self.rows: list[Row] = read_rows(path, kind)[:before]
        write_text(path, "".join(map(_as_line, self.rows)))

    def append(self, row: Row) -> None:
        """Writes one row.

        Raises:
            InputError: the run's folder has been deleted.
            WriteError: the file cannot be written.
        """
        self.rows.append(row)
        still_there(self.path.parent)
        try:
            with self.path.open("a") as file:
                file.write(_as_line(row))
        except OSError as error:
            raise WriteError(f"cannot write {self.path}: {error.strerror or error}.") from error


def _as_line(row: object) -> str:
    return json.dumps(as_values(row)) + "\n"


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a log; none if there is no file. A last line that is cut short, as by a kill, is left out.

    Raises:
        InputError: another line is damaged, or a row's number is not that of its line.
    """
    if not path.exists():
        return []
    rows, lines = [], read_bytes(path, kind.writer).split(b"\n")
    for number, line in enumerate(lines):
        try:
            row = from_values(kind, parse_json(line))
            if kind.index is not None and getattr(row, kind.index) != number:
                raise ValueError(f"{kind.index} is {getattr(row, kind.index)}, not {number}")
        except ValueError as error:
            if number == len(lines) - 1:
                break
            raise damaged(path, f"line {number + 1}: {error}", kind.writer) from error
        rows.append(row)
    return rows
