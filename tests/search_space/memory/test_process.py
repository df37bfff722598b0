"""The memory of a whole process, in fresh ones: the smallest budget that is named will do, and is not exceeded."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

NETWORK = "--init_channels 28 --layers 2 --reduction_layers 0 1"
TASKS = "--dataset synthetic --n 5 --k 5 --q 1 --eval_epochs 1 --test_task_train_steps 2 --batch_size 15"
LIGHT = "--device cpu --report 0 --tensorboard 0"
OVER = 1.1  # the prediction is within a tenth


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1"}
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the process's memory is read from /proc")
def test_the_smallest_process_budget_that_is_named_will_do(tmp_path):
    cell = tmp_path / "cell"
    assert run("tfml.py", *TASKS.split()[:6], "--meta_epochs", 0, *NETWORK.split(), "--path", cell).returncode == 0

    def search(budget: float, path: Path) -> subprocess.CompletedProcess:
        flags = [*TASKS.split(), *LIGHT.split(), "--meta_cell", cell / "meta_cell.pt", "--path", path]
        return run("onnas.py", *flags, "--process_budget", budget)

    refused = search(10, tmp_path / "refused")
    assert refused.returncode == 2
    least = float(re.search(r"--process_budget 10 .* would do is ([0-9.]+) MiB", refused.stderr).group(1))
    done = search(least, tmp_path / "done")
    assert done.returncode == 0, done.stderr
    predicted = float(re.search(r"of the process ([0-9]+) MiB", done.stdout).group(1))
    assert predicted <= least
    taken = json.loads((tmp_path / "done" / "results.json").read_text())["process_memory_mib"]
    assert taken <= OVER * least
