"""Time of one step (an architecture and a weight step on a batch) of each schedule, against plain autograd.

    python -m tests.benchmarks.step_by_step

C = 28, 4 cells of 3 nodes, batches of 15 in micro-batches of 3. All ways are run in turn, some rounds over; the table
gives the median step and the median over rounds of its ratio to plain autograd with every candidate, on the same
supernet and on one with PyTorch's own BN.
"""

import time
from statistics import median

import torch

from models.supernet import SupernetSettings
from models.textbook_norm import with_textbook_norm
from search_space.memory_table import ONE_PAIR, SHAPES, WAYS
from search_space.primitives import FEW_SHOT
from search_space.search_network import SearchNetwork
from search_space.settings import FASTEST, LEANEST, ORDINARY, Schedule, SearchSettings
from search_space.task_search import TaskSearch
from utils.draws import Draws
from utils.results.published import TITLES
from utils.run.cli import DEVICES, ArgumentParser, run, whole
from utils.run.device import choose_device

BATCH, SPLIT_NUM = 15, 5
TEXTBOOK, PLAIN = "plain autograd, all candidates, PyTorch's BN", "plain autograd, all candidates"
ROWS = {
    TEXTBOOK: {"schedule": Schedule(ORDINARY, SPLIT_NUM)},
    PLAIN: {"schedule": Schedule(ORDINARY, SPLIT_NUM)},
    "step-by-step, all candidates": {"schedule": Schedule(FASTEST, SPLIT_NUM)},
    "step-by-step, all candidates, leanest": {"schedule": Schedule(LEANEST, SPLIT_NUM)},
    "plain autograd, sampleno 2, one pair": {**ONE_PAIR, "schedule": Schedule(ORDINARY, SPLIT_NUM)},
    "step-by-step, sampleno 2, one pair": {**ONE_PAIR, "schedule": Schedule(FASTEST, SPLIT_NUM)},
    "step-by-step, sampleno 2, one pair, leanest": {**ONE_PAIR, "schedule": Schedule(LEANEST, SPLIT_NUM)},
}


def step_seconds(network, images, labels, changes: dict, number: int) -> float:
    """Adapts to a support set of one batch for one epoch: a step. ``number`` settles what is chosen."""
    settings = SearchSettings(1, 1, BATCH, 0.0, 0.0, **changes)
    search = TaskSearch(network, settings, Draws(0, "benchmark", number))
    if images.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    search.adapt(images, labels)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main():
    parser = ArgumentParser(prog="step_by_step.py", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=whole(1), default=5, help="times that each way is run")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a GPU where there is one")
    args = parser.parse_args()
    device = choose_device(args.device)
    print(f"{device}, {torch.get_num_threads()} threads, median of {args.rounds}\n")
    for name, shape in SHAPES.items():
        settings = SupernetSettings(shape[0], 28, 4, 3, (1, 3), FEW_SHOT)
        network = SearchNetwork.build(settings, WAYS, seed=0, device=device)
        images, labels = torch.rand(BATCH, *shape, device=device), torch.arange(BATCH, device=device) % WAYS
        textbook = with_textbook_norm(network.supernet).to(memory_format=torch.channels_last)
        textbook = SearchNetwork(textbook, network.architecture)
        seconds = {row: [] for row in ROWS}
        for number in range(-1, args.rounds):  # the first round warms up
            for row, changes in ROWS.items():
                net = textbook if row == TEXTBOOK else network
                taken = step_seconds(net, images, labels, changes, number)
                if number >= 0:
                    seconds[row].append(taken)
        print(f"| {TITLES[name]} | seconds a step | of plain autograd | of it with PyTorch's BN |")
        print("| --- | --- | --- | --- |")
        for row, taken in seconds.items():
            ratios = [
                median(one / base for one, base in zip(taken, seconds[baseline], strict=True))
                for baseline in (PLAIN, TEXTBOOK)
            ]
            print(f"| {row} | {median(taken):.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
        print()


if __name__ == "__main__":
    run(main, "step_by_step.py", "nothing was written.")
