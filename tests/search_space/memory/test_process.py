"""The memory of a whole process: in fresh ones, the smallest budget that is named will do, and is kept to a tenth."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.supernet import SupernetSettings
from search_space.flags.onnas import MemoryFlags
from search_space.memory.process import plan_within
from search_space.memory.size import Size
from search_space.primitives import FEW_SHOT
from search_space.settings import SearchSettings
from tests.conftest import PLAIN, ROOT, TASKS
from utils.errors import InputError

OVER, UNDER = 1.1, 0.8  # the former is promised; a tiny network has less code and fewer objects than was measured


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
    assert UNDER * least <= taken <= OVER * least


def test_tensors_of_a_gpu_are_no_part_of_the_process():
    network, settings = SupernetSettings(1, 4, 2, 1, (1,), FEW_SHOT), SearchSettings(1, 1, 6, w_lr=0.1, alpha_lr=0.1)
    size, gpu = Size(ways=3, train=6, queries=6, shape=(1, 28, 28)), torch.device("cuda")
    with pytest.raises(InputError, match="--process_budget is for --device cpu"):
        plan_within(settings, MemoryFlags(process_budget=500.0), network, size, gpu)
    _, prediction = plan_within(settings, MemoryFlags(dry_run=True), network, size, gpu)
    assert prediction.process_mib is None
