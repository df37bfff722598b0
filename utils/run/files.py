"""Files: written so that a reader sees the old content or the new, read no further than what they may be."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import stat
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from utils.errors import InputError, WriteError
from utils.run.cli import memory_ran_out

MIB = 2**20
MAX_TENSORS = 4096 * MIB  # of a file of tensors: a supernet and its optimizer's state take some hundreds


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
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all; letters that are none, as of a file's name, are escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: object) -> None:
    """Writes ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_tensors(path: Path, value: dict) -> None:
    """Writes tensors and plain values with ``torch.save``, whole or not at all."""
    import torch  # here, as what reads and writes other files does without

    buffer = io.BytesIO()
    torch.save(value, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


@contextlib.contextmanager
def opened(path: Path, at_most: int) -> Iterator[BinaryIO]:
    """Yields a file, opened to be read: one on a disk, of at most so many bytes.

    Raises:
        InputError: there is none, it cannot be read or is larger; or it is a folder, a pipe or a device: none may end.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path} is no file: expected one, no folder, pipe or device.")
            if status.st_size > at_most:
                raise InputError(f"{path} is too large, {status.st_size} bytes: expected at most {at_most}.")
            yield file
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else a pipe waits for a writer


def read_file(path: Path, at_most: int) -> bytes:
    """The content of a file of at most so many bytes; raises as :func:`opened` does."""
    with opened(path, at_most) as file:
        return file.read()


def read_tensors(path: Path) -> object:
    """Reads what :func:`write_tensors` wrote; never runs code from the file.

    Raises:
        InputError: no such file, or one that is cut short, damaged or something else.
    """
    import torch

    refusal = InputError(f"{path} is cut short, damaged or no file of tensors that tfml.py or onnas.py wrote.")
    with opened(path, MAX_TENSORS) as file:
        try:
            _check_archive(file, refusal)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of kinds of tensors that tfml.py does not write
                return torch.load(file, map_location="cpu", weights_only=True)
        except (InputError, OSError):
            raise
        except Exception as error:  # a damaged archive or pickle fails in ways that neither library lists
            if memory_ran_out(error):
                raise
            raise refusal from error


def _check_archive(file: BinaryIO, refusal: InputError) -> None:
    """Refuses a zip that does not hold what it says, or says that it holds more than its size: torch packs nothing."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
            raise refusal
        if archive.testzip() is not None:  # torch.load does not look at the checksums
            raise refusal
    file.seek(0)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content."""
    return hashlib.sha256(read_file(path, MAX_TENSORS)).hexdigest()
