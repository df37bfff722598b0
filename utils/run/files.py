"""Writing files so that a reader sees the old content or the new, never a half of either."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from utils.errors import InputError, WriteError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside ``path``; on success it is flushed to the disk and renamed to ``path``.

    Raises:
        WriteError: the file cannot be written (no space, no permission). What was at ``path`` is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields a new temporary folder beside ``path``; on success it is renamed to ``path``, which must not exist yet.

    No other process may do so at the same time; see :func:`locked`.

    Raises:
        InputError: the folder cannot be written. Nothing half-written is left.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that other processes wait for, and that ends with this one however it ends.

    ``path`` is an empty file that stays: were it removed, one that waits for it and one that comes later would each
    hold a lock.

    Raises:
        WriteError: the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}.") from error
    with file:
        yield


def write_json(path: Path, value: object) -> None:
    """Writes ``value`` as indented JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def write_tensors(path: Path, value: dict) -> None:
    """Writes tensors and plain values with ``torch.save``, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_tensors(path: Path) -> object:
    """Reads what :func:`write_tensors` wrote; never runs code from the file.

    Raises:
        InputError: no such file, or one that is cut short, damaged or something else.
    """
    refusal = InputError(f"{path} is cut short, damaged or no file of tensors that tfml.py or onnas.py wrote.")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch.load does not look at the checksums
                raise refusal
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that tfml.py does not write
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
    except InputError:
        raise
    except Exception as error:  # a damaged archive or pickle fails in ways that neither library lists
        raise refusal from error


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
