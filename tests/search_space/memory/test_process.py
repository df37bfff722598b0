"""The memory of a whole process, in fresh ones: the smallest budget that is named will do, and is not exceeded."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PLAIN, ROOT, TASKS

OVER = 1.1  # the prediction is within a tenth


@pytest.mark.skipif(sys.platform != "linux", reason="the process's memory is read from /proc")
def test_the_smallest_process_budget_that_is_named_will_do(scripts, tmp_path):
    scripts.tfml(tmp_path / "cell", "--meta_epochs", 0).succeeded()
    common = ["--meta_cell", tmp_path / "cell" / "meta_cell.pt", *TASKS.split(), *PLAIN.split(), "--search", "full"]

    def search(budget: float, path: Path) -> subprocess.CompletedProcess:
        flags = [*common, "--schedule", "leanest", "--process_budget", budget, "--path", path]
        return subprocess.run([sys.executable, "onnas.py", *map(str, flags)], cwd=ROOT, capture_output=True, text=True)

    refused = search(10, tmp_path / "refused")
    assert refused.returncode == 2
    assert not (tmp_path / "refused").exists()
    least = float(re.search(r"--process_budget 10 .* would do is ([0-9.]+) MiB", refused.stderr).group(1))
    done = search(least, tmp_path / "done")
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"of the process ([0-9]+) MiB", done.stdout).group(1)) <= least
    taken = json.loads((tmp_path / "done" / "results.json").read_text())["process_memory_mib"]
    assert taken <= OVER * least
