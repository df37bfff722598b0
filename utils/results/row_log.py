"""A log of rows, one JSON object a line, that is appended to as a run goes on."""

import json
from pathlib import Path
from typing import Generic, TypeVar

from utils.errors import InputError
from utils.results.checking import damaged, parse_json, read_bytes
from utils.results.schema import as_values, from_values
from utils.run.files import replacing

Row = TypeVar("Row")


class RowLog(Generic[Row]):
    """A log in a run's folder.

    Args:
        kind: the dataclass of its rows, one of utils.results.schema.
        before: so many rows of an earlier life of the run stay; None: all of them.

    Attributes:
        rows: those that stayed, and those that were appended since.

    Raises:
        InputError: the file is damaged; it is as it was.
    """

    def __init__(self, path: Path, kind: type[Row], before: int | None = None):
        self.path = path
        self.rows: list[Row] = read_rows(path, kind)[:before]
        with replacing(path) as temporary:
            temporary.write_text("".join(_as_line(row) for row in self.rows))

    def append(self, row: Row) -> None:
        """Writes one row.

        Raises:
            InputError: the file cannot be written.
        """
        self.rows.append(row)
        try:
            with self.path.open("a") as file:
                file.write(_as_line(row))
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}.") from error


def _as_line(row: object) -> str:
    return json.dumps(as_values(row)) + "\n"


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a log; none if there is no file. A last line that is cut short does not count: a run was killed.

    Raises:
        InputError: another line is damaged, or a row's number is not that of its line; the message names the line.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(read_bytes(path, kind.writer).split(b"\n")[:-1]):
        try:
            row = from_values(kind, parse_json(line))
        except ValueError as error:
            wrong = "not JSON" if isinstance(error, json.JSONDecodeError) else error
            raise damaged(path, f"line {number + 1}: {wrong}", kind.writer) from error
        if kind.index is not None and getattr(row, kind.index) != number:
            wrong = f"line {number + 1} is {kind.index} {getattr(row, kind.index)}, not {number}"
            raise damaged(path, wrong, kind.writer)
        rows.append(row)
    return rows
