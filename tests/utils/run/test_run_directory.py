"""The folder of a run: a new one, one to go on with, one to leave alone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from utils.errors import InputError
from utils.run.run_directory import check_run, open_run, still_there

ARGS = {"path": "x", "n": 5, "layers": [1, 3], "meta_epochs": 10}
MAY_CHANGE = ("path", "meta_epochs")
HOLDS = ("state", "result")


def check(folder, resume=True, script="a.py", **changes):
    return check_run(folder, {**ARGS, "resume": resume, **changes}, script, HOLDS, MAY_CHANGE)


def files(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


@pytest.fixture
def run(tmp_path):
    """The folder of a run."""
    path = tmp_path / "a" / "run"
    open_run(path, check(path, resume=False))
    for name in HOLDS:
        (path / name).touch()
    return path


def assert_refused(folder, match: str, **how) -> None:
    before = files(folder)
    with pytest.raises(InputError, match=match):
        check(folder, **how)
    assert files(folder) == before


@pytest.mark.parametrize("resume", [False, True])
def test_new_run(tmp_path, resume):
    path = tmp_path / "a" / "run"
    values = check(path, resume, path=path)
    assert values == {"script": "a.py", **ARGS, "path": str(path)}  # how it was started is no setting
    assert list(tmp_path.iterdir()) == []
    open_run(path, values)
    assert json.loads((path / "args.json").read_text()) == values


@pytest.mark.parametrize("resume", [False, True])
def test_folder_of_other_files_is_kept_and_used(tmp_path, resume):
    (tmp_path / "mine").write_text("mine")
    open_run(tmp_path, check(tmp_path, resume))
    assert files(tmp_path)["mine"] == b"mine"


def test_run_that_is_there_is_refused_without_resume(run):
    assert_refused(run, "--resume", resume=False)
    assert_refused(run, "--resume", resume=False, n=6)


def test_going_on(run):
    before = files(run)
    values = check(run, meta_epochs=20, path="elsewhere")
    assert files(run) == before
    open_run(run, values)
    assert json.loads((run / "args.json").read_text()) == {
        "script": "a.py",
        **ARGS,
        "meta_epochs": 20,
        "path": "elsewhere",
    }


@pytest.mark.parametrize("changes", [{"n": 6}, {"layers": [1]}])
def test_going_on_with_other_settings_is_refused_by_name(run, changes):
    (flag,) = changes
    assert_refused(run, f"--{flag}", **changes)


def test_a_flag_that_the_earlier_run_did_not_know_is_another_setting(run):
    assert_refused(run, "--new was None, not 1", new=1)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", [HOLDS, ()])
def test_run_of_another_script_is_refused(run, resume, left):
    for name in set(HOLDS) - set(left):
        (run / name).unlink()
    assert_refused(run, r"a\.py", resume=resume, script="b.py")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("missing", ["state", "args.json"])
def test_rest_of_a_run_is_refused(run, resume, missing):
    (run / missing).unlink()
    assert_refused(run, missing if resume else "--path", resume=resume)


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"3", b"null", b"\xff", b"[" * 100_000, b"{}"])
def test_garbage_in_the_settings_is_refused_by_name(run, garbage):
    (run / "args.json").write_bytes(garbage)
    assert_refused(run, r"args\.json")


@pytest.mark.parametrize("place", ["file", "file/run", "x" * 300])
def test_place_that_cannot_be_a_folder(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises((InputError, OSError)) as caught:
        open_run(tmp_path / place, check(tmp_path / place))
    assert place in str(caught.value)
    assert files(tmp_path) == {"file": b""}


# --- One process at a time ------------------------------------------------------------------------------------------

WRITER = """
import os, sys, time
from pathlib import Path
from utils.run.run_directory import check_run, open_run
values = check_run(Path(sys.argv[1]), {"path": "x", "resume": True}, "a.py", ("state",), ())
open_run(Path(sys.argv[1]), values)
if os.fork() == 0:  # as a process that loads images does, this one outlives the one that it is of
    os.write(1, b"begun\\n")
    time.sleep(60)
os.write(1, b"begun\\n")
time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that writes into the folder "run"."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "run"], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )
    for _ in range(2):  # both processes
        process.stdout.readline()
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_second_process_is_refused_by_the_first_ones_name(writer, tmp_path):
    before = files(tmp_path / "run")
    for _ in range(2):
        with pytest.raises(InputError, match=f"process {writer.pid} on {socket.gethostname()} is writing into --path"):
            check_run(tmp_path / "run", {"path": "x", "resume": True}, "a.py", ("state",), ())
    assert files(tmp_path / "run") == before


def test_lock_of_a_killed_process_does_not_block(writer, tmp_path):
    writer.kill()
    writer.wait()
    check_run(tmp_path / "run", {"path": "x", "resume": True}, "a.py", ("state",), ())


def test_run_that_another_process_made_meanwhile_is_left_alone(tmp_path):
    values = check(tmp_path / "run", resume=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/args.json").write_text("theirs")
    with pytest.raises(InputError, match="another process has just begun"):
        open_run(tmp_path / "run", values)
    assert files(tmp_path / "run") == {"args.json": b"theirs"}


def test_link_to_itself_is_refused(tmp_path):
    (tmp_path / "run").symlink_to("run")
    with pytest.raises(InputError, match="cannot make the folder --path"):
        open_run(tmp_path / "run", check(tmp_path / "run"))


@pytest.mark.parametrize("made_again", [False, True])
def test_run_whose_folder_is_deleted_stops(tmp_path, made_again):
    path = tmp_path / "run"
    open_run(path, check(path))
    still_there(path)
    shutil.rmtree(path)
    if made_again:
        path.mkdir()
    with pytest.raises(InputError, match="run was deleted while"):
        still_there(path)
