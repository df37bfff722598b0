"""Writing files whole or not at all."""

import contextlib
import errno
import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from utils.errors import InputError, WriteError
from utils.run.files import locked, read_tensors, replacing, replacing_folder, write_json, write_tensors


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


@pytest.mark.parametrize("place", ["absent", "folder", "x" * 300])
def test_tensors_that_cannot_be_read(tmp_path, place):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=place[:20]):
        read_tensors(tmp_path / place)
