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
from utils.run.run_directory import JsonLines, check_run, open_run

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


# --- JSON lines -----------------------------------------------------------------------------------------------------


def everything(number, row) -> bool:
    return True


def test_lines_are_appended_and_kept(tmp_path):
    path = tmp_path / "lines"
    lines = JsonLines(path, keep=everything)
    assert lines.kept == []
    for number in range(4):
        lines.append({"a": number, "b": None})
    assert path.read_text() == '{"a": 0}\n{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    assert JsonLines(path, keep=lambda number, row: number < 3).kept == [{"a": 0}, {"a": 1}, {"a": 2}]
    assert path.read_text() == '{"a": 0}\n{"a": 1}\n{"a": 2}\n'


@pytest.mark.parametrize("cut", range(1, 9))
def test_last_line_cut_short_is_dropped(tmp_path, cut):
    path = tmp_path / "lines"
    path.write_text('{"a": 0}\n{"a": 1}\n'[:-cut])
    lines = JsonLines(path, keep=everything)
    assert lines.kept == [{"a": 0}, {"a": 1}][: len(lines.kept)]
    lines.append({"a": 9})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [*lines.kept, {"a": 9}]


def test_line_that_cannot_be_written(tmp_path):
    lines = JsonLines(tmp_path / "lines", keep=everything)
    (tmp_path / "lines").unlink()
    (tmp_path / "lines").mkdir()
    with pytest.raises(InputError, match="lines"):
        lines.append({"a": 1})


@pytest.mark.parametrize("garbage", [b"3\n", b"[1]\n", b"null\n", b'"a"\n', b"\xff\n", b"\0\n"])
def test_line_of_something_else_ends_what_is_kept(tmp_path, garbage):
    path = tmp_path / "lines"
    path.write_bytes(b'{"a": 0}\n' + garbage)
    assert JsonLines(path, keep=everything).kept == [{"a": 0}]


def test_first_line_that_is_not_kept_ends_what_is_kept(tmp_path):
    path = tmp_path / "lines"
    path.write_text('{"a": 0}\n{"a": 7}\n{"a": 2}\n')
    assert JsonLines(path, keep=lambda number, row: row["a"] == number).kept == [{"a": 0}]
    assert path.read_text() == '{"a": 0}\n'


# --- One process at a time ------------------------------------------------------------------------------------------

WRITER = """
import os, sys, time
from pathlib import Path
from utils.run.run_directory import check_run, open_run
values = check_run(Path(sys.argv[1]), {"path": "x", "resume": True}, "a.py", ("state",), ())
open_run(Path(sys.argv[1]), values)
if os.fork() == 0:  # as a process that loads images does, this one outlives the one that it is of
    time.sleep(60)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that writes into the folder "run"."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "run"], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
    )
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


@pytest.mark.parametrize("made_again", [False, True])
def test_run_whose_folder_is_deleted_stops(tmp_path, made_again):
    path = tmp_path / "run"
    open_run(path, check(path))
    lines = JsonLines(path / "lines", keep=everything)
    lines.append({"a": 0})
    shutil.rmtree(path)
    if made_again:
        path.mkdir()
    with pytest.raises(InputError, match="run was deleted while"):
        lines.append({"a": 1})
