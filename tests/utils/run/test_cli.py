"""Command lines: number types, complaints of one sentence, exit statuses."""

import argparse
import errno
import os
from pathlib import Path

import pytest
import torch

from utils.errors import InputError
from utils.run.cli import ArgumentParser, place, real, run, switch, whole

pytestmark = pytest.mark.usefixtures("restored_process")


def refusal(parse, text: str) -> str:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        parse(text)
    return str(caught.value)


def test_numbers_within_bounds():
    assert whole(2)("2") == 2
    assert whole(0, 3)("3") == 3
    assert whole(0)("1000000000000") == 10**12
    assert whole(0)("9223372036854775807") == 2**63 - 1
    assert real(0)("0") == 0
    assert real(0, 1)("1") == 1
    assert real(0)("1e-3") == 0.001
    assert [switch("0"), switch("1")] == [0, 1]


@pytest.mark.parametrize("text", ["1", "-2", "x", "", "2.0", "1e3", "nan", "inf", "0x10", "9" * 5000])
def test_not_a_whole_number_of_at_least_two(text):
    assert "a whole number from 2 to 9223372036854775807" in refusal(whole(2), text)


@pytest.mark.parametrize("text", ["-0.1", "nan", "inf", "-inf", "1e999", "x", ""])
@pytest.mark.parametrize("parse", [real(0), real(0, 1)], ids=["no bound", "bounds"])
def test_not_a_number_of_at_least_zero(text, parse):
    assert "a number" in refusal(parse, text)


def test_a_place_is_a_path_but_not_an_empty_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place("runs/a b") == Path("runs/a b")
    assert place("~/runs") == tmp_path / "runs"
    assert "a path, got an empty name" in refusal(place, "")
    assert "there is no such home folder" in refusal(place, "~no_such_user/runs")


@pytest.mark.parametrize("text", ["2", "-1", "yes", "", "01", "1.0"])
def test_not_a_switch(text):
    assert "0 (off) or 1 (on)" in refusal(switch, text)


def test_complaint_names_the_flag_the_value_and_what_would_be_right(capsys):
    parser = ArgumentParser(prog="x.py")
    parser.add_argument("--share", type=real(0, 1))
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--share", "1.5"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "x.py: error: argument --share: expected a number from 0 to 1, got 1.5 (see x.py --help)\n"
    )


def test_names_are_exact(capsys):
    parser = ArgumentParser(prog="x.py")
    parser.add_argument("--meta_epochs", type=int)
    with pytest.raises(SystemExit):
        parser.parse_args(["--meta_ep", "3"])
    assert "--meta_ep" in capsys.readouterr().err


def test_flags_that_are_given_are_told_from_those_that_are_not(monkeypatch):
    parser = ArgumentParser(prog="x.py")
    parser.add_argument("--seed", type=whole(0), default=21)
    parser.add_argument("--mode", choices=("linear", "none"), default="linear")
    parser.add_argument("--layers", type=whole(0), nargs="*")
    parser.add_argument("--resume", action="store_true")
    for line, given in (
        ("", set()),
        ("--seed 21 --layers", {"seed", "layers"}),
        ("--mode=none --resume", {"mode", "resume"}),
    ):
        monkeypatch.setattr("sys.argv", ["x.py", *line.split()])
        assert parser.given() == given


def test_help_shows_defaults_only_where_there_are_any():
    parser = ArgumentParser(prog="x.py")
    parser.add_argument("--seed", default=21, help="of every draw")
    parser.add_argument("--workers", default=0, help="that load")
    parser.add_argument("--name", default="", help="of the run")
    parser.add_argument("--batch_size", help="images")
    parser.add_argument("--resume", action="store_true", help="go on")
    text = parser.format_help()
    assert "of every draw (default: 21)" in text
    assert "that load (default: 0)" in text
    assert text.count("default") == 2
    assert "None" not in text
    assert "False" not in text


def ends_with(error: BaseException, capsys) -> tuple[int, str]:
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main, "x.py", "the work is safe.")
    return ended.value.code, capsys.readouterr().err


def test_input_error_is_one_sentence(capsys):
    assert ends_with(InputError("no such file."), capsys) == (2, "x.py: error: no such file.\n")


def test_an_absent_package_is_named(capsys):
    said = "x.py: error: the Python package no_such_package is not installed: pip install -r requirements.txt.\n"
    assert ends_with(ModuleNotFoundError(name="no_such_package"), capsys) == (2, said)


def test_error_of_the_system_is_one_sentence(capsys):
    status, said = ends_with(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some/file"), capsys)
    assert (status, said) == (2, "x.py: error: some/file: No space left on device.\n")


def test_interrupt_says_what_is_left(capsys):
    status, said = ends_with(KeyboardInterrupt(), capsys)
    assert (status, said.strip()) == (130, "x.py: interrupted; the work is safe.")


def test_other_errors_keep_their_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main, "x.py", "")


def test_success_does_not_exit():
    run(lambda: None, "x.py", "")


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libx.so: failed to map segment from shared object"),
        caused(SystemError("error return without exception set"), MemoryError()),
        caused(InputError("it is damaged."), MemoryError()),
    ],
    ids=["Python", "CPU", "GPU", "oneDNN", "thread", "system", "library", "hidden", "mistaken"],
)
def test_out_of_memory_is_one_sentence_with_a_remedy(error, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main, "onnas.py", "nothing was written.", less_memory=lambda: "a larger --split_num needs less")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "onnas.py: error: out of memory: a larger --split_num needs less.\n"


def test_other_runtime_errors_are_not_hidden():
    def main():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        run(main, "onnas.py", "nothing was written.")
