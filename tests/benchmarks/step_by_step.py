"""Time of one step (an architecture and a weight step on a batch) of each schedule, against plain autograd.

    python -m tests.benchmarks.step_by_step

C = 28, 4 cells of 3 nodes, batches of 15 in micro-batches of 3. All ways are run in turn, some rounds over; the table
gives the median step and the median over rounds of its ratio to plain autograd with every candidate, on the same
supernet and on one with PyTorch's own BN.
"""

import time
from statistics import median

import torch
from search_space.build import build_supernet

from models.supernet import SupernetSettings
from models.textbook_norm import with_textbook_norm
from search_space.memory_table import ONE_PAIR, SHAPES, WAYS
from search_space.primitives import FEW_SHOT
from search_space.settings import FASTEST, LEANEST, ORDINARY, SearchSettings
from utils.run.cli import ArgumentParser, run, whole
from utils.run.device import CHOICES, choose_device

BATCH, SPLIT_NUM = 15, 5
TEXTBOOK, PLAIN = "plain autograd, all candidates, PyTorch's BN", "plain autograd, all candidates"
ROWS = {
    TEXTBOOK: {"schedule": ORDINARY},
    PLAIN: {"schedule": ORDINARY},
    "step-by-step, all candidates": {"schedule": FASTEST},
    "step-by-step, all candidates, leanest": {"schedule": LEANEST},
    "plain autograd, sampleno 2, one pair": {**ONE_PAIR, "schedule": ORDINARY},
    "step-by-step, sampleno 2, one pair": {**ONE_PAIR, "schedule": FASTEST},
    "step-by-step, sampleno 2, one pair, leanest": {**ONE_PAIR, "schedule": LEANEST},
}


def step_seconds(supernet, architecture, images, labels, changes: dict, number: int) -> float:
    """Adapts to a support set of one batch for one epoch: a step. ``number`` settles what is chosen."""
    settings = SearchSettings(1, 1, BATCH, 0.0, 0.0, split_num=SPLIT_NUM, **changes)
    search = TaskSearch(supernet, architecture, settings, 0, "benchmark", number)
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
    parser.add_argument("--device", choices=CHOICES, default="auto", help="auto: a GPU where there is one")
    args = parser.parse_args()
    device = choose_device(args.device)
    print(f"{device}, {torch.get_num_threads()} threads, median of {args.rounds}\n")
    for name, shape in SHAPES.items():
        network = SupernetSettings(shape[0], 28, 4, 3, (1, 3), FEW_SHOT)
        supernet, architecture = build_supernet(network, WAYS, seed=0, device=device)
        images, labels = torch.rand(BATCH, *shape, device=device), torch.arange(BATCH, device=device) % WAYS
        textbook = with_textbook_norm(supernet).to(memory_format=torch.channels_last)
        seconds = {row: [] for row in ROWS}
        for number in range(-1, args.rounds):  # the first round warms up
            for row, changes in ROWS.items():
                net = textbook if row == TEXTBOOK else supernet
                taken = step_seconds(net, architecture, images, labels, changes, number)
                if number >= 0:
                    seconds[row].append(taken)
        print(f"| {name} | seconds a step | of plain autograd | of it with PyTorch's BN |\n| --- | --- | --- | --- |")
        for row, taken in seconds.items():
            ratios = [
                median(one / base for one, base in zip(taken, seconds[baseline], strict=True))
                for baseline in (PLAIN, TEXTBOOK)
            ]
            print(f"| {row} | {median(taken):.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
        print()


if __name__ == "__main__":
    run(main, "step_by_step.py", "nothing was written.")
