"""Checks a page's commands without doing what they say.

bash runs the blocks, in order and in one session, so that variables and loops are expanded for real; but the only
commands that it finds write down their arguments. Those of a Python are then given to the script's own parser.
"""

import argparse
import importlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from tests.readme.pages import ROOT, Block, as_script, blocks
from utils.errors import InputError

PYTHONS = ("python", "python3", "torchrun")
# What else a page may call: not looked into.
OTHERS = ("pip", "conda", "unzip", "tensorboard", "cat", "ls", "sha256sum")
FOR_SCRIPTS = ("bash", "env", "dirname")  # what the repository's own scripts need is there for real
MODULES = ("pip", "venv", "ruff", "pytest")  # of others: not looked into
SHIM = r"""#!/usr/bin/env bash
printf '%s\037' "${LINE-}" "${0##*/}" "$@" >>"${CALLS:-/dev/null}"
printf '\036' >>"${CALLS:-/dev/null}"
"""
WRITTEN = ("path",)  # names the folder that is written into
OUTPUTS = (*WRITTEN, "export", "csv")  # and what else is written


def make_commands(folder: Path) -> Path:
    """Makes the folder that is to be the PATH: commands that only write down, into $CALLS, how they are called."""
    folder.mkdir()
    for name in PYTHONS + OTHERS:
        (folder / name).write_text(SHIM)
        (folder / name).chmod(0o755)
    for name in FOR_SCRIPTS:
        (folder / name).symlink_to(shutil.which(name))
    return folder


def command_problems(text: str, page: str, clone: Path, scratch: Path) -> list[str]:
    """What is wrong with a page's commands, as far as can be told without running them.

    Args:
        clone: a copy of the repository for the blocks to run in. scratch: an empty folder.
    """
    found = blocks(text)
    problems = []
    if text.count("<!-- check:") != sum(block.parse_only for block in found):
        problems.append(f"{page}: expected each check: comment as <!-- check: parse only, WHY --> right above a block")
    calls = scratch / "calls"
    calls.touch()
    environment = {"PATH": str(make_commands(scratch / "commands")), "HOME": str(scratch), "CALLS": str(calls)}
    script = as_script(found, "set -euT; trap 'export LINE=$LINENO' DEBUG")
    done = subprocess.run(
        [shutil.which("bash"), "-c", script, page], cwd=clone, env=environment, capture_output=True, text=True
    )
    checked = Commands(clone)
    for call in calls.read_text().split("\036")[:-1]:
        line, name, *arguments = call.split("\037")[:-1]
        try:
            checked.check(name, arguments, in_block(found, int(line)).parse_only)
        except InputError as error:
            problems.append(f"{page}: line {line}: {error}")
    problems += done.stderr.splitlines()
    if done.returncode and not done.stderr:
        problems.append(f"{page}: a command ends with status {done.returncode}")
    return problems


def in_block(found: list[Block], line: int) -> Block:
    return next(block for block in reversed(found) if block.line <= line)


class Commands:
    """The commands of a page, one after the other: what the earlier ones write, the later ones may read."""

    def __init__(self, clone: Path):
        self._clone = clone
        self._written = []

    def check(self, name: str, arguments: list[str], reads_anything: bool) -> None:
        """Checks one command.

        Args:
            reads_anything: whether it may read files of runs that the page does not write.

        Raises:
            InputError: its script, a flag or a value is wrong, or it reads what is not there.
        """
        if name in OTHERS or arguments[:1] == ["-"]:  # "-": environment.sh asks for the versions of packages
            return
        if name == "torchrun":
            with complaints():
                launch = importlib.import_module("torch.distributed.run").get_args_parser().parse_args(arguments)
            arguments = [launch.training_script, *launch.training_script_args]
        module = module_of(arguments)
        if module is None:
            return
        for args in parse(module, arguments[2:] if arguments[0] == "-m" else arguments[1:]):
            missing = [str(path) for path in inputs(args) if not self._is_there(path)]
            if missing and not reads_anything:
                raise InputError(f"{' '.join(missing)} is written by nothing above, nor is it tracked")
            self._written += [Path(value) for flag, value in vars(args).items() if flag in WRITTEN]

    def _is_there(self, path: Path) -> bool:
        related = any(path == other or path in other.parents or other in path.parents for other in self._written)
        return related or (self._clone / path).exists()


def inputs(args: argparse.Namespace) -> Iterator[Path]:
    """The files and folders of runs that a command reads: what is in capitals or elsewhere is the reader's own."""
    for flag, value in vars(args).items():
        for path in value if isinstance(value, list) else [value]:
            of_runs = isinstance(path, str | os.PathLike) and Path(path).parts[:1] in (("runs",), ("checkpoints",))
            if of_runs and flag not in OUTPUTS:
                yield Path(path)


def module_of(arguments: list[str]) -> str | None:
    """The module that a Python with these arguments runs; None where it is of others.

    Raises:
        InputError: there is none.
    """
    if arguments[:1] == ["-m"]:
        name = arguments[1]
        if name in MODULES:
            return None
        file = ROOT / name.replace(".", "/")
        if file.with_suffix(".py").exists() or (file / "__main__.py").exists():
            return name if file.with_suffix(".py").exists() else f"{name}.__main__"
        raise InputError(f"there is no module {name}")
    script = Path(arguments[0]) if arguments else Path("no script")
    if script.suffix != ".py" or script.name != str(script) or not (ROOT / script).exists():
        raise InputError(f"there is no script {script} in the repository's folder")
    return script.stem


@contextmanager
def complaints() -> Iterator[None]:
    """Turns an argparse parser's complaint into an InputError; what --help says is dropped."""
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            yield
    except SystemExit as end:
        if end.code:
            raise InputError(said.getvalue().strip()) from None


def parse(name: str, arguments: list[str]) -> list[argparse.Namespace]:
    """Parses a command line as its script does; then, as onnas.py does, what the script passes on to onnas.py.

    Raises:
        InputError: the script's complaint.
    """
    module = importlib.import_module(name)
    if not (hasattr(module, "parse_args") or hasattr(module, "main")):
        raise InputError(f"{name} is not a script")
    parsed = argparse.Namespace()  # --help: nothing is read or written
    with patch.object(sys, "argv", [name, *arguments]), complaints():
        parsed = module.parse_args() if hasattr(module, "parse_args") else parse_in_main(module.main)
    if not isinstance(parsed, tuple):
        return [parsed if isinstance(parsed, argparse.Namespace) else argparse.Namespace(**parsed.as_dict())]
    args, passed_on = parsed
    common = ["--task", getattr(args, "task", "full"), "--meta_cell", "FILE", "--path", str(args.path), *passed_on]
    of_methods = {method: ["--search", method, *args.flags[method]] for method in getattr(args, "methods", ())}
    return [args, *(more for own in of_methods.values() or [[]] for more in parse("onnas", [*common, *own]))]


@dataclass
class Parsed(Exception):
    """Ends a script once its command line is parsed."""

    namespace: argparse.Namespace


def parse_in_main(main) -> argparse.Namespace:
    """What a ``main`` with a parser of its own gets from it."""
    original = argparse.ArgumentParser.parse_args

    def stop(parser):
        raise Parsed(original(parser))

    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main()
        except Parsed as parsed:
            return parsed.namespace
    raise InputError("its script has no command line")
