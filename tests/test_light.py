"""What a search imports, and how soon a command line is answered: in fresh processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import NETWORK, ROOT, TASKS

HEAVY = (
    *("torchvision", "torchmeta", "torch._dynamo", "torch._inductor", "sympy", "triton", "h5py", "requests"),
    *("matplotlib", "tensorboard", "jinja2", "onnx", "onnxscript", "onnxruntime"),
)
LIGHT = "--report 0 --tensorboard 0"
# Runs a script as its command line would, then says which of the modules it has imported.
PROBE = """
import json, runpy, sys
modules, sys.argv = sys.argv[1].split(","), sys.argv[2:]
sys.path.insert(0, "")
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(json.dumps([name for name in modules if name in sys.modules]))
"""


def imported(modules: tuple[str, ...], *command: str) -> list[str]:
    """Which of the modules a command imports."""
    probe = [sys.executable, "-c", PROBE, ",".join(modules), *command]
    ended = subprocess.run(probe, cwd=ROOT, capture_output=True, text=True, check=False)
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def meta_cell(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("light")
    found = imported(HEAVY, "tfml.py", *f"--dataset synthetic --meta_epochs 0 {NETWORK} {LIGHT} --path {path}".split())
    assert found == []
    return path / "meta_cell.pt"


@pytest.mark.parametrize("flags", ["", "--memory_budget 100", "--schedule leanest --transductive 0"])
def test_a_search_imports_what_it_uses(flags, meta_cell, tmp_path):
    path = tmp_path / "run"
    command = f"onnas.py --meta_cell {meta_cell} {TASKS} {LIGHT} {flags} --path {path}"
    assert imported(HEAVY, *command.split()) == []
    assert (path / "results.json").exists()
    assert not any((path / name).exists() for name in ("report.html", "tb"))


@pytest.mark.parametrize(
    "command",
    ["onnas.py --help", "tfml.py --help", "onnas.py --n 1", "tfml.py --layers many", "onnas.py --task full x"],
)
def test_a_command_line_is_answered_without_torch(command):
    assert imported(("torch", "numpy"), *command.split()) == []
