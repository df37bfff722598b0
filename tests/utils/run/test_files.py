"""Writing files whole or not at all."""

import contextlib
import errno
import fcntl
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from utils.errors import InputError, WriteError
from utils.run.files import (
    file_digest,
    locked,
    read_file,
    read_tensors,
    replacing,
    replacing_folder,
    write_json,
    write_tensors,
    write_text,
)


class Interrupt(Exception):
    """Stands for whatever may stop a write."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("old", [None, "old"])
def test_replacing_writes_the_new_content(tmp_path, old):
    path = tmp_path / "file"
    if old:
        path.write_text(old)
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() if old is None else path.read_text() == old
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [Interrupt, KeyboardInterrupt])
def test_replacing_keeps_the_old_content_when_stopped(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_replacing_on_a_full_disk(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"file: No space left on device\.$"):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_letters_that_are_none_are_escaped(tmp_path):
    write_text(tmp_path / "file", "caf\udce9 and caf\u00e9")
    assert (tmp_path / "file").read_bytes() == b"caf\\udce9 and caf\xc3\xa9"


@pytest.mark.parametrize("place", ["absent/file", "plain/file", "folder"])
def test_replacing_where_it_cannot_be_written(tmp_path, place):
    (tmp_path / "plain").write_text("mine")
    (tmp_path / "folder").mkdir()
    before = names(tmp_path)
    with pytest.raises(InputError, match=place):
        write_json(tmp_path / place, {})
    assert names(tmp_path) == before
    assert (tmp_path / "plain").read_text() == "mine"


def test_replacing_folder(tmp_path):
    path = tmp_path / "new" / "folder"
    with replacing_folder(path) as temporary:
        (temporary / "file").write_text("new")
        assert not path.exists()
    assert (path / "file").read_text() == "new"
    assert names(path.parent) == ["folder"]


def test_replacing_folder_leaves_nothing_half_written(tmp_path):
    def write(error):
        with replacing_folder(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("half")
            raise error

    for error in (Interrupt, KeyboardInterrupt):
        with pytest.raises(error):
            write(error)
        assert names(tmp_path) == []
    with pytest.raises(InputError, match="folder"):
        write(OSError(errno.ENOSPC, "No space left on device"))
    assert names(tmp_path) == []


def test_replacing_folder_starts_from_an_empty_one(tmp_path):
    (tmp_path / "folder.tmp").mkdir()
    (tmp_path / "folder.tmp" / "from a killed process").touch()
    with replacing_folder(tmp_path / "folder") as temporary:
        (temporary / "file").touch()
    assert names(tmp_path / "folder") == ["file"]


def test_replacing_folder_does_not_replace_one_that_holds_files(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()

    def write():
        with replacing_folder(tmp_path / "folder") as temporary:
            (temporary / "file").touch()

    with pytest.raises(InputError, match="folder"):
        write()
    assert names(tmp_path / "folder") == ["mine"]
    assert names(tmp_path) == ["folder"]


def test_a_lock_ends_with_a_process_that_is_killed(tmp_path):
    path = tmp_path / "new" / "lock"
    command = (
        "import sys; from pathlib import Path; from utils.run.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", command, path], cwd=ROOT, text=True, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        with path.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with locked(path):
        assert path.read_bytes() == b""
    assert names(path.parent) == ["lock"]


def test_a_lock_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/lock"), locked(tmp_path / "file" / "lock"):
        pass


def test_json(tmp_path):
    write_json(tmp_path / "file", {"a": [1, None]})
    assert json.loads((tmp_path / "file").read_text()) == {"a": [1, None]}


def test_value_that_json_does_not_know_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "file", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "file", {"a": object()})
    assert (tmp_path / "file").read_text() == "1\n"
    assert names(tmp_path) == ["file"]


def test_tensors(tmp_path):
    write_tensors(tmp_path / "file", {"a": torch.arange(3), "b": [1, "x"]})
    values = read_tensors(tmp_path / "file")
    assert values["a"].tolist() == [0, 1, 2]
    assert values["b"] == [1, "x"]


def test_damage_of_any_kind_has_one_message(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, {"tensor": torch.arange(64)})
    content = path.read_bytes()
    spoilt = bytearray(content)
    spoilt[content.index(b"/data/0") + 64 + 7] ^= 1  # in the tensor: its zip's checksum alone tells
    messages = set()
    for damaged in (b"", content[:100], content[:-1], bytes(spoilt), b"hello", pickle.dumps({"tensor": 1})):
        path.write_bytes(damaged)
        with pytest.raises(InputError) as caught:
            read_tensors(path)
        messages.add(str(caught.value))
    (message,) = messages
    assert str(path) in message


def test_file_with_one_bit_changed_is_refused_or_says_the_same(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, {"tensor": torch.arange(64), "value": "plain"})
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with contextlib.suppress(InputError):
            values = read_tensors(path)
            assert (values["tensor"].tolist(), values["value"]) == (list(range(64)), "plain"), position


def repacked(path: Path, compression: int, **changes: bytes) -> None:
    """Writes the zip once more, with other contents of some members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, changes.get(name.rpartition("/")[2].replace(".", "_"), content))


def test_tensors_that_inflate_are_refused_unread(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, {"tensor": torch.arange(64)})
    repacked(path, zipfile.ZIP_STORED)
    assert read_tensors(path)["tensor"].tolist() == list(range(64))
    repacked(path, zipfile.ZIP_DEFLATED, version=bytes(2**28))
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    with pytest.raises(InputError, match="file is cut short, damaged"):
        read_tensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_tensors_that_are_larger_than_what_is_there_are_refused(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, {"tensor": torch.arange(64.0)})
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    number, huge = b"K@", b"\x8a\x05" + (10**9).to_bytes(5, "little")
    for changed in (pickled.replace(number + b"t", huge + b"t"), pickled.replace(number + b"\x85", huge + b"\x85")):
        assert changed != pickled
        write_tensors(path, {"tensor": torch.arange(64.0)})
        repacked(path, zipfile.ZIP_STORED, data_pkl=changed)
        with pytest.raises(InputError, match="file is cut short, damaged"):
            read_tensors(path)


@pytest.mark.parametrize("reader", [read_tensors, file_digest, lambda path: read_file(path, 9)])
def test_what_is_no_file_is_not_waited_for(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    for name in names(tmp_path):
        with pytest.raises(InputError, match=name):
            reader(tmp_path / name)
    listening.close()


def test_file_is_read_up_to_a_size(tmp_path):
    (tmp_path / "file").write_bytes(b"123456789")
    assert read_file(tmp_path / "file", 9) == b"123456789"
    with pytest.raises(InputError, match="too large"):
        read_file(tmp_path / "file", 8)


@pytest.mark.parametrize("place", ["absent", "folder", "x" * 300])
def test_tensors_that_cannot_be_read(tmp_path, place):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=place[:20]):
        read_tensors(tmp_path / place)
