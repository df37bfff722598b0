"""Time of loading a training task, through torchmeta and from the decoded file, beside that of adapting to it.

    python -m tests.benchmarks.episodes --data_path data

5 ways, one query a class. Adapting: C = 8, 2 reduction cells of 3 nodes, weights only, which is the least that a
meta-epoch does. All is measured in turn, some rounds over; the table gives medians.
"""

import copy
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

import torch

from models.supernet import SupernetSettings
from search_space.primitives import FEW_SHOT
from search_space.search_network import SearchNetwork
from search_space.settings import SearchSettings
from search_space.task_search import TaskSearch
from torchmeta_loader import episodes, few_shot_tasks
from utils.data.names import INPUT_SHAPES
from utils.data.torchmeta_classes import TorchmetaClasses
from utils.draws import Draws
from utils.run.cli import DEVICES, ArgumentParser, place, run, whole
from utils.run.device import choose_device

WAYS = 5
# Support images a class, epochs, images of a batch.
TASKS = {"published setting, 75 support images": (15, 5, 20), "25 support images": (5, 2, 10)}


def seconds_per_task(tasks, numbers: range) -> float:
    started = time.perf_counter()
    for _ in episodes(tasks, numbers):
        pass
    return (time.perf_counter() - started) / len(numbers)


def adapting_seconds(search: TaskSearch, images: torch.Tensor, labels: torch.Tensor) -> float:
    started = time.perf_counter()
    search.adapt(images, labels)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main():
    parser = ArgumentParser(prog="episodes.py", description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", choices=tuple(INPUT_SHAPES), nargs="+", default=["omniglot"], help="to measure")
    parser.add_argument("--data_path", type=place, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--rounds", type=whole(1), default=5, help="times that everything is measured")
    parser.add_argument("--tasks", type=whole(1), default=20, help="tasks that are loaded a round")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a GPU where there is one")
    args = parser.parse_args()
    device = choose_device(args.device)
    print(f"{device}, {torch.get_num_threads()} threads, median of {args.rounds}\n")
    print("| data set | torchmeta, ms a task | here, ms a task | adapting at C = 8, ms a task | loading / adapting |")
    print("| --- | --- | --- | --- | --- |")
    for dataset, (name, (shots, epochs, batch_size)) in product(args.datasets, TASKS.items()):
        here = few_shot_tasks(dataset, "train", ways=WAYS, shots=shots, queries=1, seed=21, data_path=args.data_path)
        torchmeta = copy.copy(here)
        if dataset != "synthetic":
            torchmeta.source = replace(here.source, images=TorchmetaClasses(dataset, "train", args.data_path, True))
        settings = SupernetSettings(INPUT_SHAPES[dataset][0], 8, 2, 3, (0, 1), FEW_SHOT)
        network = SearchNetwork.build(settings, WAYS, seed=21, device=device)
        adaptation = SearchSettings(epochs, 0, batch_size, w_lr=0.005, alpha_lr=0.005)
        rounds = []
        for number in range(args.rounds + 1):  # the first round warms up
            numbers = range(number * args.tasks, (number + 1) * args.tasks)
            task = here.load(numbers[0])
            search = TaskSearch(network, adaptation, Draws(21, "benchmark", number))
            rounds.append(
                (
                    seconds_per_task(torchmeta, numbers),
                    seconds_per_task(here, numbers),
                    adapting_seconds(search, task.support.to(device), task.support_labels.to(device)),
                )
            )
        by_way, loading, adapting = (1000 * median(taken) for taken in zip(*rounds[1:], strict=True))
        print(f"| {dataset}, {name} | {by_way:.1f} | {loading:.2f} | {adapting:.0f} | {loading / adapting:.2%} |")


if __name__ == "__main__":
    run(main, "episodes.py", "nothing but the decoded images was written.")
