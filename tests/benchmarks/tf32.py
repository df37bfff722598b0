"""What TF32 (--tf32 1) does to accuracy, on any machine: the rounding of a GPU's factors, done on a CPU.

    python -m tests.benchmarks.tf32 --data_path data

Each task is adapted twice by the full search from the same start: in float32, and with the factors of every
convolution and matrix product, of the forward and the backward pass, rounded to TF32's 10 bits of fraction. Sums stay
float32, as they do on a GPU.
"""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from search_space.evaluation import TEST_TASK, Start
from search_space.normalizers import Normalizer
from search_space.search_network import SearchNetwork, load_meta_cell
from search_space.settings import SearchSettings
from torchmeta_loader import episodes, few_shot_tasks
from utils.data.episode import Episode
from utils.results.intervals import mean_and_ci95
from utils.run.cli import ArgumentParser, place, real, run, whole
from utils.run.progress import progress_bar

ATEN = torch.ops.aten
FACTORS = {  # the places of their arguments
    ATEN.convolution.default: (0, 1),
    ATEN.convolution_backward.default: (0, 1, 2),
    ATEN.mm.default: (0, 1),
    ATEN.bmm.default: (0, 1),
    ATEN.addmm.default: (1, 2),
    ATEN.baddbmm.default: (1, 2),
}
DROPPED_BITS = 13  # float32 has 23 bits of fraction, TF32 has 10


def tf32(x: torch.Tensor) -> torch.Tensor:
    """float32 numbers rounded to the nearest of TF32, halves away from zero."""
    half, kept = 1 << (DROPPED_BITS - 1), -1 << DROPPED_BITS
    return ((x.view(torch.int32) + half) & kept).view(torch.float32)


class TF32Products(TorchDispatchMode):
    """Rounds the float32 factors of convolutions and matrix products."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        places = FACTORS.get(func, ())
        args = [tf32(x) if place in places else x for place, x in enumerate(args)]
        return func(*args, **(kwargs or {}))


def parse_args():
    parser = ArgumentParser(prog="tf32.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--meta_cell",
        type=Path,
        default=Path("checkpoints/omniglot.pt"),
        metavar="FILE",
        help="of Omniglot, by tfml.py",
    )
    parser.add_argument("--data_path", type=place, default=Path("data"), help="folder of the prepared Omniglot")
    parser.add_argument("--eval_epochs", type=whole(2), default=100, help="test tasks, 5-way 1-shot, 15 queries")
    parser.add_argument("--seed", type=whole(0), default=22, help="of every random draw")
    parser.add_argument("--w_lr", type=real(0), default=0.002, help="learning rate of the weights")
    return parser.parse_args()


def accuracy(start: Start, episode: Episode) -> float:
    """Of a task on its queries, after adapting to its support set."""
    search = start.unfold(TEST_TASK, episode.number)
    search.adapt(episode.support, episode.support_labels)
    return search.classify(episode.query, episode.query_labels, episode.support).accuracy


def main():
    args = parse_args()
    meta_cell = load_meta_cell(args.meta_cell)
    tasks = few_shot_tasks("omniglot", "test", ways=5, shots=1, queries=15, seed=args.seed, data_path=args.data_path)
    settings = SearchSettings(10, 10, 10, args.w_lr, 0.005, normalizer=Normalizer(anneal_mode="none"))
    start = Start(meta_cell, SearchNetwork.build(meta_cell.settings, 5, args.seed), settings, args.seed)
    accuracies = {"float32": [], "TF32": []}
    for episode in progress_bar(episodes(tasks, range(args.eval_epochs)), "tf32", "task", 0, args.eval_epochs):
        for name, rounding in (("float32", nullcontext()), ("TF32", TF32Products())):
            with rounding:
                accuracies[name].append(accuracy(start, episode))
    print("| factors | accuracy, 5-way 1-shot | paired difference |")
    print("| --- | --- | --- |")
    for name, values in accuracies.items():
        mean, interval = mean_and_ci95(values)
        change, change_interval = mean_and_ci95([a - b for a, b in zip(values, accuracies["float32"], strict=True)])
        difference = "" if name == "float32" else f"{100 * change:+.1f} +- {100 * change_interval:.1f}"
        print(f"| {name} | {100 * mean:.1f} +- {100 * interval:.1f} | {difference} |")


if __name__ == "__main__":
    torch.set_num_threads(1)  # the net is too small for more
    run(main, "tf32.py", "nothing was written.")
