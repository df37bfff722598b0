"""What the search is worth: the network it finds against the relaxed one, and against those of no search.

    python -m tests.benchmarks.what_the_search_is_worth --ways 5 --shots 5

Each test task is adapted three times, equally but for alpha and beta: they are searched; they stay as meta-trained; or
they stay, their rows shuffled, so that they point to a random genotype as surely as the meta-trained ones to theirs.
Each of the first two leaves a relaxed network and a found one. All differences are paired, task by task. What is
measured goes into --path, a line a task, and the same command goes on where it stopped.
"""

import json
import statistics
import time
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import torch

from search_space.evaluation import TEST_TASK, Start
from search_space.found import genotype_overlap
from search_space.found_figures import measure_found
from search_space.genotype import Genotype
from search_space.normalizers import Normalizer
from search_space.search_network import SearchNetwork, load_meta_cell
from search_space.settings import CENTROID, FASTEST, Schedule, SearchSettings
from torchmeta_loader import episodes, few_shot_tasks
from utils.data.episode import Episode
from utils.draws import torch_generator
from utils.memory import PeakMemory
from utils.results.intervals import mean_and_ci95
from utils.run.cli import ArgumentParser, place, real, run, whole
from utils.run.progress import progress_bar

METHODS = {"full": {}, "onnas": {"sampleno": 2, "beta_sampling": True}}
SEARCHED, META_TRAINED, RANDOM = ("searched", "as meta-trained", "random")
# Without a search `onnas` only gives fewer gradients to the weights.
RUNS = (("full", SEARCHED), ("full", META_TRAINED), ("full", RANDOM), ("onnas", SEARCHED))
MEASURED = 2  # tasks whose memory is measured: the meter slows them down
ROWS = {
    "(a) relaxed, alpha searched": (SEARCHED, "relaxed"),
    "(b) relaxed, alpha as meta-trained": (META_TRAINED, "relaxed"),
    "(c) found by the search": (SEARCHED, "found"),
    "(d) genotype of the meta-trained alpha": (META_TRAINED, "found"),
    "(e) random genotype": (RANDOM, "found"),
}


def parse_args():
    parser = ArgumentParser(prog="what_the_search_is_worth.py", description=__doc__.splitlines()[0])
    parser.add_argument("--meta_cell", type=Path, default=Path("checkpoints/omniglot.pt"), help="of Omniglot")
    parser.add_argument("--data_path", type=place, default=Path("data"), help="folder of the prepared Omniglot")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="whose characters are tested on")
    parser.add_argument("--path", type=place, default=Path("runs/search_worth"), help="folder of what is measured")
    parser.add_argument("--ways", type=whole(2), default=5, help="classes of a task")
    parser.add_argument("--shots", type=whole(1), default=5, help="support images a class")
    parser.add_argument("--queries", type=whole(1), default=15, help="query images a class")
    parser.add_argument("--eval_epochs", type=whole(2), default=200, help="test tasks")
    parser.add_argument("--seed", type=whole(0), default=22, help="of every random draw")
    parser.add_argument("--epochs", type=whole(1), default=5, help="over a task's support set")
    parser.add_argument("--found_epochs", type=real(0, 1), default=0.4, help="share of them on the found network")
    parser.add_argument("--w_lr", type=real(0), default=0.0001, help="learning rate of the weights")
    parser.add_argument("--alpha_lr", type=real(0), default=0.005, help="that of alpha and beta")
    parser.add_argument("--batch_size", type=whole(2), default=10, help="images of a batch")
    parser.add_argument("--split_num", type=whole(1), default=2, help="micro-batches of a batch")
    return parser.parse_args()


def base_settings(args) -> SearchSettings:
    found_epochs = round(args.found_epochs * args.epochs)
    return SearchSettings(
        epochs=args.epochs,
        architecture_epochs=args.epochs - found_epochs,
        found_epochs=found_epochs,
        batch_size=args.batch_size,
        w_lr=args.w_lr,
        alpha_lr=args.alpha_lr,
        schedule=Schedule(FASTEST, args.split_num),
        normalizer=Normalizer(),
        head_init=CENTROID,
    )


@torch.no_grad()
def shuffle_rows(architecture, generator: torch.Generator) -> None:
    """Shuffles the values of each edge's alpha and of each node's beta."""
    for parameter in architecture.parameters():
        parameter.copy_(parameter[torch.randperm(len(parameter), generator=generator)])


def measure_task(start: Start, alpha: str, episode: Episode) -> dict:
    """One task adapted once: the figures of its relaxed and of its found network."""
    if alpha != SEARCHED:
        start = replace(start, settings=replace(start.settings, alpha_lr=0.0))
    search = start.unfold(TEST_TASK, episode.number)
    if alpha == RANDOM:
        shuffle_rows(search.architecture, torch_generator(start.seed, "random genotype", episode.number))
    started = time.perf_counter()
    search.adapt(episode.support, episode.support_labels)
    seconds = time.perf_counter() - started
    transductive = search.classify(episode.query, episode.query_labels, episode.support)
    search.settings = replace(search.settings, transductive=False)
    relaxed = search.classify(episode.query, episode.query_labels, episode.support)
    found = measure_found(search, episode, relaxed, measure=episode.number < MEASURED)
    return {
        "task": episode.number,
        "transductive": transductive.accuracy,
        "relaxed": relaxed.accuracy,
        "found": found.found_accuracy,
        "seconds": seconds,
        "genotype": search.network.genotype().as_dict(),
        **asdict(found),
    }


def peak_mib(start: Start, episode: Episode) -> float:
    """The peak of adapting to a task."""
    search = start.unfold(TEST_TASK, episode.number)
    with PeakMemory(
        torch.device("cpu"), search.network.resident(), [episode.support, episode.support_labels]
    ) as memory:
        search.adapt(episode.support, episode.support_labels)
    return memory.mib


def measure(args, meta_cell) -> tuple[dict[tuple[str, str], list[dict]], dict[str, float]]:
    """{(method, alpha): a row a task}; and each method's peak of adapting, in MiB."""
    size = {"ways": args.ways, "shots": args.shots, "queries": args.queries}
    tasks = few_shot_tasks("omniglot", args.split, **size, seed=args.seed, data_path=args.data_path)
    network = SearchNetwork.build(meta_cell.settings, args.ways, args.seed)
    file = args.path / f"{args.ways}way_{args.shots}shot.jsonl"
    args.path.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    starts = {
        name: Start(meta_cell, network, replace(base_settings(args), **changes), args.seed)
        for name, changes in METHODS.items()
    }
    left = range(len(lines), args.eval_epochs)
    bar = progress_bar(left, "worth", "task", len(lines), args.eval_epochs)
    for _, episode in zip(bar, episodes(tasks, left), strict=True):
        lines.append([[method, alpha, measure_task(starts[method], alpha, episode)] for method, alpha in RUNS])
        with file.open("a") as log:
            log.write(json.dumps(lines[-1]) + "\n")
    rows = {run: [] for run in RUNS}
    for line in lines:
        for method, alpha, row in line:
            rows[method, alpha].append(row)
    (episode,) = episodes(tasks, range(1))
    peaks = {name: peak_mib(start, episode) for name, start in starts.items()}
    return rows, peaks


def show(args, meta_cell, rows, peaks) -> None:
    print(f"{args.ways}-way {args.shots}-shot, {args.eval_epochs} tasks of {args.split} characters; percent\n")
    print("| network | search | image by image | difference to (a) | transductive | M MACs | parameters | s a task |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, (alpha, network) in ROWS.items():
        for method in [method for method in METHODS if (method, alpha) in RUNS]:
            own = rows[method, alpha]
            accuracies = [row[network] for row in own]
            first = [row["relaxed"] for row in rows[method, SEARCHED]]
            differences = [one - other for one, other in zip(accuracies, first, strict=True)]
            relaxed = network == "relaxed"
            cells = [
                name,
                method,
                _percent(accuracies, ""),
                "" if name.startswith("(a)") else _percent(differences, "+"),
                _percent([row["transductive"] for row in own], "") if relaxed else "",
                f"{statistics.fmean(row['macs' if relaxed else 'found_macs'] for row in own) / 1e6:.2f}",
                "" if relaxed else f"{statistics.fmean(row['found_parameters'] for row in own):,.0f}",
                f"{statistics.median(row['seconds'] for row in own):.1f}",
            ]
            print(f"| {' | '.join(cells)} |")
    print()
    for method in METHODS:
        found = [Genotype.from_dict(row["genotype"], "a row") for row in rows[method, SEARCHED]]
        drawn = [Genotype.from_dict(row["genotype"], "a row") for row in rows["full", RANDOM]]
        alike, by_chance = (
            statistics.fmean(genotype_overlap(*pair, meta_cell.settings) for pair in combinations(genotypes, 2))
            for genotypes in (found, drawn)
        )
        own = rows[method, SEARCHED]
        print(
            f"{method}: two tasks' genotypes share {alike:.0%} of their entries, random ones {by_chance:.0%}; "
            f"{len({json.dumps(row['genotype']) for row in own})} different ones; relaxed and found agree on "
            f"{statistics.fmean(row['agreement'] for row in own):.1%} of the queries; mean entropy "
            f"{statistics.fmean(row['candidate_entropy'] for row in own):.3f} nats; adapting takes "
            f"{peaks[method]:.1f} MiB."
        )
    full, onnas = ([row["relaxed"] for row in rows[method, SEARCHED]] for method in METHODS)
    print(f"onnas against full, relaxed: {_percent([b - a for a, b in zip(full, onnas, strict=True)], '+')}")


def _percent(values: list[float], sign: str) -> str:
    mean, interval = mean_and_ci95(values)
    return f"{100 * mean:{sign}.1f} +- {100 * interval:.1f}"


def main():
    args = parse_args()
    meta_cell = load_meta_cell(args.meta_cell)
    show(args, meta_cell, *measure(args, meta_cell))


if __name__ == "__main__":
    torch.set_num_threads(1)  # the net is too small for more
    run(main, "what_the_search_is_worth.py", "the same command goes on where it stopped.")
