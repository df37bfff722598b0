"""Accuracy of the memory savers on the same test tasks, and the paired difference to the full search.

    python -m tests.benchmarks.accuracy --meta_cell runs/small/meta_cell.pt --data_path data

Each way to search adapts once to each task, and is tested both transductively and image by image.
"""

from dataclasses import replace
from pathlib import Path

import torch

from search_space.build import build_supernet, load_meta_cell
from search_space.normalizers import Normalizer
from search_space.task_search import FASTEST, SearchSettings, TaskSearch
from torchmeta_loader import episode_loader, few_shot_tasks
from utils.cli import ArgumentParser, folder, run, whole
from utils.intervals import mean_and_ci95
from utils.progress import progress_bar

WAYS_TO_SEARCH = {
    "full": {},
    "alpha": {"sampleno": 2},
    "alpha + beta": {"sampleno": 2, "beta_sampling": True},
    "alpha + beta + step-by-step": {"sampleno": 2, "beta_sampling": True, "schedule": FASTEST},
    "all candidates, exact": {"schedule": FASTEST},
}


def parse_args():
    parser = ArgumentParser(prog="accuracy.py", description=__doc__.splitlines()[0])
    parser.add_argument("--meta_cell", type=Path, required=True, metavar="FILE", help="of Omniglot, by tfml.py")
    parser.add_argument("--data_path", type=folder, default=Path("data"), help="folder of the prepared Omniglot")
    parser.add_argument("--eval_epochs", type=whole(2), default=100, help="test tasks, 5-way 5-shot, 15 queries")
    parser.add_argument("--seed", type=whole(0), default=21, help="of every random draw")
    parser.add_argument("--batch_size", type=whole(2), default=10, help="images of a batch")
    parser.add_argument("--split_num", type=whole(1), default=2, help="micro-batches of a batch")
    return parser.parse_args()


def main():
    args = parse_args()
    meta_cell = load_meta_cell(args.meta_cell)
    tasks = few_shot_tasks("omniglot", "test", ways=5, shots=5, queries=15, seed=args.seed, data_path=args.data_path)
    supernet, architecture = build_supernet(meta_cell.settings, 5, args.seed)
    # As tests/benchmarks/README.md trains the small meta-cell, but in micro-batches.
    base = SearchSettings(
        epochs=5,
        architecture_epochs=5,
        batch_size=args.batch_size,
        w_lr=0.005,
        alpha_lr=0.005,
        split_num=args.split_num,
        normalizer=Normalizer(anneal_mode="none"),
    )
    accuracies = {(name, transductive): [] for name in WAYS_TO_SEARCH for transductive in (True, False)}
    loader = episode_loader(tasks, range(args.eval_epochs))
    for task, batch in enumerate(progress_bar(loader, "accuracy", "task", 0, args.eval_epochs)):
        images, labels, query, query_labels = (tensor[0] for part in ("support", "query") for tensor in batch[part])
        for name, changes in WAYS_TO_SEARCH.items():
            meta_cell.unfold(supernet, architecture)
            search = TaskSearch(supernet, architecture, replace(base, **changes), args.seed, "test task", task)
            search.adapt(images, labels)
            for transductive in (True, False):
                search.settings = replace(search.settings, transductive=transductive)
                result = search.classify(query, query_labels, images)
                accuracies[name, transductive].append(result.accuracy)

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
