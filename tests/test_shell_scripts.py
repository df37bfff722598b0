"""The shell scripts: they parse, pass only flags that exist, and find a Python."""

import os
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [*sorted(ROOT.glob("*.sh")), ROOT / "utils" / "environment.sh", ROOT / ".ci" / "run"]
CALLS = {
    "tfml.sh": ["tfml.py"],
    "tfml_onnas.sh": ["onnas.py"],
    "onnas_full_task.sh": ["onnas.py"],
    "quickstart.sh": ["tfml.py", "onnas.py", "-m utils.quickstart_table", "-m utils.data.drawings"],
}


def bash(command: str, cwd: Path = ROOT, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_script_parses_and_can_be_run(script):
    done = bash(f"bash -n '{script}'")
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(script, os.X_OK) == (script.name != "environment.sh")  # which is sourced


@lru_cache
def flags_of(program: str) -> set[str]:
    done = bash(f"'{sys.executable}' {program} --help")
    return set(re.findall(r"--\w+", done.stdout))


def arguments_of(script: str, tmp_path: Path) -> list[list[str]]:
    """The arguments of every call of Python, told by one that only writes them down."""
    shutil.copytree(ROOT / "utils", tmp_path / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "utils" / "environment.sh").write_text("python=./python\n")
    recorder = tmp_path / "python"
    recorder.write_text("""#!/usr/bin/env bash\nprintf '%s\\t' "$@" >>calls\necho >>calls\n""")
    recorder.chmod(0o755)
    shutil.copy(ROOT / script, tmp_path)
    subprocess.run(["bash", tmp_path / script], cwd="/", check=True, capture_output=True)
    return [line.split("\t")[:-1] for line in (tmp_path / "calls").read_text().splitlines()]


@pytest.mark.parametrize("script", CALLS)
def test_every_flag_exists(script, tmp_path):
    programs = set()
    (tmp_path / "runs" / "tfml").mkdir(parents=True)
    (tmp_path / "runs" / "tfml" / "meta_cell.pt").touch()  # as after tfml.sh
    for arguments in arguments_of(script, tmp_path):
        program = " ".join(arguments[:2]) if arguments[0] == "-m" else arguments[0]
        programs.add(program)
        given = [argument for argument in arguments if argument.startswith("--")]
        assert len(given) == len(set(given))
        assert set(given) <= flags_of(program)
    assert programs == set(CALLS[script])


def test_a_full_tasks_genotype_may_have_any_number_of_nodes(tmp_path):
    """... as onnas.py refuses a --nodes that is not the genotype's, and a script's flags cannot be left out."""
    (arguments,) = arguments_of("onnas_full_task.sh", tmp_path)
    assert "--nodes" not in arguments


def test_the_search_starts_from_the_meta_cell_that_comes_with_the_repository_until_there_is_another(tmp_path):
    (arguments,) = arguments_of("tfml_onnas.sh", tmp_path)
    last = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    assert last["--meta_cell"] == "checkpoints/miniimagenet.pt"
    assert (ROOT / last["--meta_cell"]).exists()
    assert last["--dataset"] == "miniimagenet"


def test_a_further_flag_comes_last(tmp_path):
    """... so that it wins."""
    arguments_of("tfml.sh", tmp_path)
    subprocess.run(["bash", tmp_path / "tfml.sh", "--seed", "3"], check=True, capture_output=True)
    assert (tmp_path / "calls").read_text().splitlines()[-1].endswith("\t--seed\t3\t")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder like the repository's, with a space in its name, that asks only for what any Python here has."""
    folder = tmp_path / "a repository"
    (folder / "utils").mkdir(parents=True)
    shutil.copy(ROOT / "utils" / "environment.sh", folder / "utils")
    (folder / "requirements.txt").write_text(f"# A comment.\n\npytest=={version('pytest')}\n")
    return folder


def source_environment(folder: Path, **environment) -> subprocess.CompletedProcess:
    return bash("set -euo pipefail; source utils/environment.sh", folder, **environment)


def fake_python(path: Path, body: str) -> None:
    """A ``python3`` that runs ``body``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def only(*folders: Path) -> str:
    """A PATH with no Python but those in ``folders``: the tools that the script needs are linked."""
    tools = folders[0].parent / "tools"
    tools.mkdir()
    for tool in ("bash", "mkdir", "rm", "touch"):
        (tools / tool).symlink_to(shutil.which(tool))
    return ":".join(map(str, [*folders, tools]))


def test_the_active_environment_is_used_if_it_has_everything(folder):
    fake_python(folder / "bin" / "python3", f"exec '{sys.executable}' \"$@\"")
    done = source_environment(folder, PATH=only(folder / "bin"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Python: {folder / 'bin' / 'python3'}\n"
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize("reason", ["another version", "absent"])
def test_a_pin_that_is_not_met_is_seen(folder, reason):
    pin = {"another version": "pytest==0.1", "absent": "no-such-distribution==1.0"}[reason]
    (folder / "requirements.txt").write_text(pin + "\n")
    fake_python(folder / "bin" / "python3", f"[ $1 = - ] || exit 1; exec '{sys.executable}' \"$@\"")
    done = source_environment(folder, PATH=only(folder / "bin"))
    assert done.returncode == 1
    assert done.stderr.startswith("This needs Python 3.10, 3.11 or 3.12 on the PATH")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("search_only", ["", "1"])
@pytest.mark.parametrize(("pin", "met"), [("pytest>=2.1,<1000.2", True), ("pytest>=2.1,<9.0.1", False)])
def test_a_search_will_do_with_less(folder, search_only, pin, met):
    (folder / "requirements.txt").write_text("no-such-distribution==1.0\n")
    (folder / "requirements-device.txt").write_text(pin + "\n")
    fake_python(folder / "bin" / "python3", f"[ $1 = - ] || exit 1; exec '{sys.executable}' \"$@\"")
    done = source_environment(folder, PATH=only(folder / "bin"), search_only=search_only)
    assert (done.returncode == 0) == (met and search_only == "1")


@pytest.mark.parametrize(("number", "met"), [("2.11.0a0+nv25.9", True), ("2.13.0+cpu", True), ("2.9.1", False)])
def test_a_device_makers_wheel_is_known_by_its_number(folder, number, met):
    (folder / "requirements.txt").write_text("no-such-distribution==1.0\n")
    (folder / "requirements-device.txt").write_text("a-wheel>=2.11,<2.14\n")
    metadata = folder / "wheels" / f"a_wheel-{number}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: a-wheel\nVersion: {number}\n")
    fake_python(folder / "bin" / "python3", f"[ $1 = - ] || exit 1; exec '{sys.executable}' \"$@\"")
    environment = {"search_only": "1", "PYTHONPATH": str(folder / "wheels")}
    done = source_environment(folder, PATH=only(folder / "bin"), **environment)
    assert (done.returncode == 0) == met


def test_a_whole_venv_is_used_as_it_is(folder):
    fake_python(folder / ".venv" / "bin" / "python", f"[ $1 = - ] || exit 1; exec '{sys.executable}' \"$@\"")
    (folder / "bin").mkdir()
    done = source_environment(folder, PATH=only(folder / "bin"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Python: .venv/bin/python\n"


@pytest.mark.parametrize("pip", ["works", "fails"])
def test_an_interrupted_installation_is_made_anew(folder, pip):
    """Its packages may look whole. The interpreter here records how it is called; its venv is a copy of itself."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "unfinished").touch()
    (folder / ".venv" / "left over").touch()
    fake_python(
        folder / "bin" / "python3.11",
        f"""echo "$*" >>calls
case "$*" in
    --version) echo Python 3.11.0 ;;
    "-m venv .venv") mkdir -p .venv/bin && cat "$0" >.venv/bin/python && chmod +x .venv/bin/python ;;
    "-m pip"*) {"true" if pip == "works" else "false"} ;;
esac""",
    )
    path = only(folder / "bin")
    (folder / "tools" / "cat").symlink_to(shutil.which("cat"))
    (folder / "tools" / "chmod").symlink_to(shutil.which("chmod"))
    done = source_environment(folder, PATH=path)
    assert not (folder / ".venv" / "left over").exists()
    assert done.returncode == (0 if pip == "works" else 1)
    assert (folder / ".venv" / "unfinished").exists() == (pip == "fails")
    calls = (folder / "calls").read_text()
    assert "pip install --disable-pip-version-check -r requirements.txt" in calls
    assert ("--no-deps torchmeta==" in calls) == (pip == "works")
