"""Peak memory of a full-task search step at the published setting, On-NAS against the full search.

    python -m tests.benchmarks.full_task_memory

CIFAR-10's shape, batches of 64, C = 28, 4 cells of 3 nodes, the full task's 8 candidates; an architecture and a weight
step, twice. The images are noise: memory does not depend on what they show.
"""

import torch

from models.supernet import SupernetSettings
from search_space.full_task.search import FullTaskSearch
from search_space.memory_table import ONE_PAIR
from search_space.primitives import FULL_TASK
from search_space.search_network import SearchNetwork
from search_space.settings import FASTEST, LEANEST, ORDINARY, Schedule, SearchSettings
from utils.run.cli import DEVICES, ArgumentParser, run
from utils.run.device import choose_device

BATCH, SHAPE, WAYS, STEPS = 64, (3, 32, 32), 10, 2
FULL = "full, ordinary back-propagation, batches whole"
ROWS = {
    FULL: {"schedule": Schedule(ORDINARY)},
    "onnas, fastest schedule, split_num 5": {**ONE_PAIR, "schedule": Schedule(FASTEST, 5)},
    "onnas, leanest schedule, split_num 5": {**ONE_PAIR, "schedule": Schedule(LEANEST, 5)},
    "full, step by step, split_num 5": {"schedule": Schedule(FASTEST, 5)},
}


def main():
    parser = ArgumentParser(prog="full_task_memory.py", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a GPU where there is one")
    args = parser.parse_args()
    device = choose_device(args.device)
    supernet = SupernetSettings(SHAPE[0], 28, 4, 3, (1, 3), FULL_TASK)
    peaks = {}
    for row, changes in ROWS.items():
        network = SearchNetwork.build(supernet, WAYS, seed=0, device=device)
        settings = SearchSettings(1, 1, BATCH, 0.025, 3e-4, **changes)
        search = FullTaskSearch(network, settings, seed=0)
        batches = [(torch.rand(BATCH, *SHAPE), torch.arange(BATCH) % WAYS) for _ in range(STEPS)]
        peaks[row] = search.train_epoch(0, batches, batches, STEPS).peak_memory_mib
    print("| search | peak, MiB | full / this |\n| --- | --- | --- |")
    for row, peak in peaks.items():
        print(f"| {row} | {peak:.1f} | {peaks[FULL] / peak:.1f} |")


if __name__ == "__main__":
    run(main, "full_task_memory.py", "nothing was written.")
