"""Accuracy of the memory savers on the same test tasks, and the paired difference to the full search.

    python -m tests.benchmarks.accuracy

5-way 5-shot Omniglot, 15 queries a class, with the settings of the README's few-shot table. Each way to search adapts
once to each task, and is tested both transductively and image by image.
"""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from search_space.evaluation import TEST_TASK, Start
from search_space.normalizers import Normalizer
from search_space.search_network import SearchNetwork, load_meta_cell
from search_space.settings import FASTEST, ORDINARY, Schedule, SearchSettings
from torchmeta_loader import episodes, few_shot_tasks
from utils.results.intervals import mean_and_ci95
from utils.run.cli import ArgumentParser, place, real, run, whole
from utils.run.progress import progress_bar

EPOCHS = 10  # over a task's support set
WAYS_TO_SEARCH = {
    "full": {},
    "alpha": {"sampleno": 2},
    "alpha + beta": {"sampleno": 2, "beta_sampling": True},
    "alpha + beta + step-by-step": {"sampleno": 2, "beta_sampling": True, "schedule": FASTEST},
    "all candidates, exact": {"schedule": FASTEST},
}


def parse_args():
    parser = ArgumentParser(prog="accuracy.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--meta_cell", type=Path, default=Path("checkpoints/omniglot.pt"), metavar="FILE", help="of Omniglot"
    )
    parser.add_argument("--data_path", type=place, default=Path("data"), help="folder of the prepared Omniglot")
    parser.add_argument("--eval_epochs", type=whole(2), default=100, help="test tasks")
    parser.add_argument("--seed", type=whole(0), default=22, help="of every random draw")
    parser.add_argument("--w_lr", type=real(0), default=0.002, help="learning rate of the weights")
    parser.add_argument("--batch_size", type=whole(2), default=10, help="images of a batch")
    parser.add_argument("--split_num", type=whole(1), default=2, help="micro-batches of a batch")
    return parser.parse_args()


def measure(args) -> dict[tuple[str, bool], list[float]]:
    """The accuracies, from 0 to 1: {(way to search, transductive): one a task}."""
    meta_cell = load_meta_cell(args.meta_cell)
    tasks = few_shot_tasks("omniglot", "test", ways=5, shots=5, queries=15, seed=args.seed, data_path=args.data_path)
    network = SearchNetwork.build(meta_cell.settings, 5, args.seed)
    base = SearchSettings(
        epochs=EPOCHS,
        architecture_epochs=EPOCHS,
        batch_size=args.batch_size,
        w_lr=args.w_lr,
        alpha_lr=0.005,
        normalizer=Normalizer(anneal_mode="none"),
    )
    accuracies = {(name, transductive): [] for name in WAYS_TO_SEARCH for transductive in (True, False)}
    bar = progress_bar(episodes(tasks, range(args.eval_epochs)), "accuracy", "task", 0, args.eval_epochs)
    for episode in bar:
        for name, changes in WAYS_TO_SEARCH.items():
            schedule = Schedule(changes.get("schedule", ORDINARY), args.split_num)
            settings = replace(base, **{**changes, "schedule": schedule})
            search = Start(meta_cell, network, settings, args.seed).unfold(TEST_TASK, episode.number)
            search.adapt(episode.support, episode.support_labels)
            for transductive in (True, False):
                search.settings = replace(search.settings, transductive=transductive)
                result = search.classify(episode.query, episode.query_labels, episode.support)
                accuracies[name, transductive].append(result.accuracy)
        shown = {name: f"{fmean(accuracies[name, True]):.3f}" for name in ("full", "alpha + beta + step-by-step")}
        bar.set_postfix(shown, refresh=False)
    return accuracies


def main():
    args = parse_args()
    accuracies = measure(args)
    print(f"{args.eval_epochs} tasks, batches of {args.batch_size} in {args.split_num}; percent, with 95 % intervals\n")
    print("| search | transductive | difference to full | image by image | difference to full |")
    print("| --- | --- | --- | --- | --- |")
    for name in WAYS_TO_SEARCH:
        cells = [name]
        for transductive in (True, False):
            values = accuracies[name, transductive]
            differences = [a - b for a, b in zip(values, accuracies["full", transductive], strict=True)]
            cells += [_percent(values, ""), "" if name == "full" else _percent(differences, "+")]
        print(f"| {' | '.join(cells)} |")


def _percent(values: list[float], sign: str) -> str:
    mean, interval = mean_and_ci95(values)
    return f"{100 * mean:{sign}.1f} +- {100 * interval:.1f}"


if __name__ == "__main__":
    torch.set_num_threads(1)  # the net is too small for more
    run(main, "accuracy.py", "nothing was written.")
