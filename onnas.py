"""On-device search: a network for each new few-shot task, or for one full data set.

    python onnas.py --meta_cell runs/omniglot/meta_cell.pt --dataset omniglot --path runs/omniglot_onnas
    python onnas.py --task full --dataset imagefolder --data_path photographs --path runs/photographs

Few-shot: unfolds a meta-cell, searches and trains it on each task's support set, and tests it on the queries; writes
tasks.jsonl (a line a task), results.json and args.json into --path. Full task: searches on the two halves of the
training set, from a meta-cell or from scratch, then trains the network that was found; writes search.jsonl,
derived.jsonl (a line an epoch), genotype.json, .txt and .png, results.json, args.json and what --resume needs.
"""

import json
from collections import Counter
from dataclasses import asdict
from statistics import fmean, median

import torch

from models.frozen_supernet import FrozenSupernet
from search_space.build import build_supernet, load_meta_cell
from search_space.evaluation import network_figures, search_task, start_task
from search_space.flags import evaluation_settings
from search_space.full_task_run import search_full_task
from search_space.memory_plan import TaskSize
from search_space.methods import network_of
from search_space.onnas_flags import (
    add_onnas_flags,
    check_agreement,
    check_flags,
    choose_settings,
    files_of_runs,
    first_settings,
    make_export_folder,
)
from search_space.task_search import batches, chunk_count
from torchmeta_loader import INPUT_SHAPES, episode_loader, few_shot_tasks
from utils.cli import ArgumentParser, run
from utils.device import choose_device
from utils.export import export_network
from utils.files import file_digest, write_json
from utils.full_task_data import DATASETS
from utils.intervals import mean_and_ci95
from utils.progress import progress_bar
from utils.run_directory import JsonLines, check_run, open_run

# What may differ between a run and its continuation.
MAY_CHANGE = ("path", "meta_cell", "name", "data_path", "download", "eval_epochs", "workers", "export")


def parse_args():
    parser = ArgumentParser(prog="onnas.py", description=__doc__.splitlines()[0])
    datasets = {"fewshot": tuple(INPUT_SHAPES), "full": DATASETS}
    add_onnas_flags(parser, datasets)
    args = parser.parse_args()
    check_flags(parser, args, datasets)
    return args


def search_few_shot_tasks(args, device):
    meta_cell = load_meta_cell(args.meta_cell)
    check_agreement(args, meta_cell, INPUT_SHAPES[args.dataset][0])
    network = network_of(args.search, meta_cell.settings)
    size = TaskSize(args.n, args.k, args.q, INPUT_SHAPES[args.dataset])
    shared = evaluation_settings(args, args.batch_size, **first_settings(args))
    settings, prediction = choose_settings(args, network, size, shared)
    if prediction is not None:
        print(prediction.as_text(settings))
    if args.dry_run:
        return
    asked, args.split_num, args.schedule = args.split_num or 1, settings.split_num, settings.schedule
    sizes = [len(batch) for batch in batches(torch.arange(args.n * args.k), args.batch_size)]
    chunk_number = min(chunk_count(size, asked) for size in sizes)
    if chunk_number < asked:
        print(f"--split_num {asked} would leave single images: the smallest batch is split in {chunk_number}.")
    tasks = few_shot_tasks(
        args.dataset,
        "test",
        ways=args.n,
        shots=args.k,
        queries=args.q,
        seed=args.seed,
        data_path=args.data_path,
        use_vinyals_split=bool(args.use_vinyals_split),
        download=args.download,
    )
    supernet, architecture = build_supernet(network, args.n, args.seed, device)

    # What counts is the meta-cell's content, not its place: a run is not to go on with another one.
    flags = {**vars(args), "meta_cell (SHA-256)": file_digest(args.meta_cell)}
    values = check_run(args.path, flags, "onnas.py", files_of_runs("tasks.jsonl"), MAY_CHANGE)
    make_export_folder(args.export)
    open_run(args.path, values)
    log = JsonLines(args.path / "tasks.jsonl", keep=lambda number, row: row.get("task") == number)
    rows = log.kept
    loader = episode_loader(tasks, range(len(rows), args.eval_epochs), workers=args.workers)
    progress = progress_bar(loader, args.name or args.search, "task", len(rows), args.eval_epochs)
    for task, batch in enumerate(progress, start=len(rows)):
        result = search_task(meta_cell, supernet, architecture, settings, batch, args.seed, task)
        rows.append(asdict(result))
        log.append(rows[-1])
        progress.set_postfix(accuracy=f"{fmean(row['accuracy'] for row in rows):.4f}", refresh=False)

    accuracy, ci95 = mean_and_ci95([row["accuracy"] for row in rows])
    heaviest = max(rows, key=lambda row: row["peak_memory_mib"])
    genotypes = Counter(json.dumps(row["genotype"]) for row in rows)
    write_json(
        args.path / "results.json",
        {
            "task": "fewshot",
            "dataset": args.dataset,
            "search": args.search,
            "ways": args.n,
            "shots": args.k,
            "queries": args.q,
            "tasks": len(rows),
            "accuracy": accuracy,
            "accuracy_ci95": ci95,
            "accuracy_before": fmean(row["accuracy_before"] for row in rows),
            "seconds_per_task": fmean(row["seconds"] for row in rows),
            "seconds_per_step": median(row["seconds_per_step"] for row in rows),
            "peak_memory_mib": heaviest["peak_memory_mib"],
            "peak_memory_breakdown_mib": heaviest["peak_memory_breakdown_mib"],
            "peak_memory_test_mib": max(row["peak_memory_test_mib"] for row in rows),
            **network_figures(supernet, meta_cell),
            "genotype": json.loads(genotypes.most_common(1)[0][0]),  # the one most often found
            "settings": values,
        },
    )
    if args.export is not None:
        export_last_task(args, tasks, meta_cell, supernet, architecture, settings, len(rows) - 1)
    interval = "" if ci95 is None else f" +- {ci95:.4f}"
    print(f"accuracy {accuracy:.4f}{interval} over {len(rows)} tasks; {args.path / 'results.json'}")


def export_last_task(args, tasks, meta_cell, supernet, architecture, settings, task):
    """Adapts to the last task once more, and exports the relaxed network with the support set's BN statistics."""
    (batch,) = episode_loader(tasks, range(task, task + 1))
    images, labels = (tensor[0].to(supernet.head.weight.device) for tensor in batch["support"])
    search = start_task(meta_cell, supernet, architecture, settings, args.seed, task)
    search.adapt(images, labels)
    mixtures = search.mixtures()
    search.average_batch_statistics(images, mixtures)
    channels = supernet.settings.in_channels
    files = export_network(
        FrozenSupernet(supernet, mixtures),
        INPUT_SHAPES[args.dataset],
        args.export,
        classes=tasks.class_names(task),
        mean=[0.0] * channels,  # few-shot images are in [0, 1]
        std=[1.0] * channels,
        extra={"dataset": args.dataset, "task": task, "seed": args.seed},
    )
    print(f"task {task}'s network: {' and '.join(map(str, files))}")


def main():
    args = parse_args()
    device = choose_device(args.device)
    if args.task == "full":
        search_full_task(args, device)
    else:
        search_few_shot_tasks(args, device)


if __name__ == "__main__":
    run(
        main,
        "onnas.py",
        "--resume goes on after the last whole task or epoch.",
        less_memory="--step_by_step 1, a larger --split_num or --memory_budget MIB needs less",
    )
