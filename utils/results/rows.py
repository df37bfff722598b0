"""Reading the files of results that the scripts write."""

import json
from pathlib import Path

from utils.errors import InputError


def read_rows(path: Path, *keys: str, writer: str) -> list[dict]:
    """The JSON objects of a file, one, or one a line; each has ``keys``.

    Args:
        writer: the script that writes the file, to be named when it is not what it should be.

    Raises:
        InputError: no such file, or not one of such objects.
    """
    try:
        text = path.read_text()
        rows = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; run {writer}, which writes it.") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: remove its folder and run {writer} again.") from error
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is damaged: remove its folder and run {writer} again.")
    missing = [key for key in keys for row in rows or [{}] if key not in row]
    if missing:
        raise InputError(f"{path} has no {missing[0]}: remove its folder and run {writer} again.")
    return rows
