"""On-device search: loads a meta-cell, unfolds it, searches and trains a network for each new task.

    python onnas.py --meta_cell runs/omniglot/meta_cell.pt --dataset omniglot --path runs/omniglot_onnas

Writes tasks.jsonl (a line a task), results.json and args.json into --path.
"""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median

import torch

from search_space.build import build_supernet, load_meta_cell
from search_space.evaluation import mean_and_ci95, search_task
from search_space.flags import add_run_flags, add_search_flags, add_task_flags, evaluation_settings, preset
from search_space.memory_plan import TaskSize, options, plan, predict
from search_space.task_search import FASTEST, LEANEST, ORDINARY, batches, chunk_count
from torchmeta_loader import INPUT_SHAPES, episode_loader, few_shot_tasks
from utils.cli import ArgumentParser, real, run, switch, whole
from utils.device import choose_device
from utils.errors import InputError
from utils.files import file_digest, write_json
from utils.memory import MIB
from utils.progress import progress_bar
from utils.run_directory import JsonLines, check_run, open_run

# What may differ between a run and its continuation.
MAY_CHANGE = ("path", "meta_cell", "name", "data_path", "download", "eval_epochs", "workers")


def parse_args():
    parser = ArgumentParser(prog="onnas.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--meta_cell", type=Path, required=True, metavar="FILE", help="meta_cell.pt, written by tfml.py"
    )
    add_run_flags(parser, path="runs/onnas")
    add_task_flags(parser, tuple(INPUT_SHAPES))
    add_search_flags(parser)
    group = parser.add_argument_group("network: the meta-cell's, if given they must agree")
    group.add_argument("--init_channels", type=whole(2), help="C: channels of a node")
    group.add_argument("--layers", type=whole(1), help="cells")
    group.add_argument("--nodes", type=whole(1), help="nodes of a cell")
    group.add_argument("--reduction_layers", type=whole(0), nargs="*", help="cells of stride 2, counted from 0")
    group = parser.add_argument_group("on-device search")
    group.add_argument("--eval_epochs", type=whole(1), default=100, help="test tasks")
    group.add_argument(
        "--search", choices=("onnas", "full"), default="onnas", help="full: every candidate and pair gets gradient"
    )
    group.add_argument("--sampleno", type=whole(1), default=2, help="onnas: candidates of an edge that get gradient")
    group.add_argument(
        "--alpha_expect", type=switch, default=1, help="onnas: 1 chooses by expected final value, 0 uniformly"
    )
    group.add_argument(
        "--beta_sampling", type=switch, default=1, help="onnas: 1 gives gradient to one edge pair a node, 0 to all"
    )
    group.add_argument("--batch_size", type=whole(2), help="images of a batch (default: the preset's)")
    group = parser.add_argument_group("memory")
    group.add_argument(
        "--split_num",
        type=whole(1),
        help="micro-batches of a batch, gradients accumulated (default: 1, or the budget's)",
    )
    group.add_argument(
        "--step_by_step",
        type=switch,
        default=1,
        help="1: back-propagation a cell and a candidate at a time; 0: all at once. The gradient is the same",
    )
    group.add_argument(
        "--schedule",
        choices=(FASTEST, LEANEST),
        help="step by step: fastest keeps each cell's two inputs, leanest computes them again "
        "(default: fastest, or the budget's)",
    )
    group.add_argument(
        "--memory_budget",
        type=real(1),
        metavar="MIB",
        help="choose the fastest schedule and the largest micro-batch whose tensors stay within MIB; "
        "--schedule and --split_num, where given, stay as they are",
    )
    group.add_argument(
        "--dry_run", action="store_true", help="print the memory that the search would take, and its parts, and exit"
    )
    args = parser.parse_args()
    if args.schedule and not args.step_by_step:
        parser.error("argument --schedule: goes with --step_by_step 1, not 0")
    values = preset(args)
    args.batch_size = args.batch_size or values["test_batch_size"]
    args.w_lr = values["w_lr"] if args.w_lr is None else args.w_lr
    args.alpha_lr = values["alpha_lr"] if args.alpha_lr is None else args.alpha_lr
    return args


def check_agreement(args, settings):
    """A meta-cell brings its own network; other flags, or data it does not fit, are refused."""
    for flag in ("init_channels", "layers", "nodes", "reduction_layers"):
        asked, has = getattr(args, flag), settings.as_dict()[flag]
        if asked is not None and asked != has:
            raise InputError(f"{args.meta_cell} was trained with --{flag} {has}, not {asked}: leave the flag out.")
    channels = INPUT_SHAPES[args.dataset][0]
    if channels != settings.in_channels:
        raise InputError(
            f"{args.meta_cell} was trained on images of {settings.in_channels} channels, --dataset {args.dataset} has "
            f"{channels}: name a meta-cell that was trained on such images."
        )


def choose_settings(args, network):
    """The search's settings, within the memory budget if there is one, and the prediction of its memory, if asked."""
    selection = {}
    if args.search == "onnas":
        selection = {
            "sampleno": args.sampleno,
            "alpha_expect": bool(args.alpha_expect),
            "beta_sampling": bool(args.beta_sampling),
        }
    schedules = (args.schedule,) if args.schedule else (FASTEST, LEANEST)
    if not args.step_by_step:
        schedules = (ORDINARY,)
    settings = evaluation_settings(
        args, args.batch_size, split_num=args.split_num or 1, schedule=schedules[0], **selection
    )
    task = TaskSize(args.n, args.k, args.q, INPUT_SHAPES[args.dataset])
    if args.memory_budget is not None:
        choices = options(task, settings, schedules, args.split_num)
        return plan(network, task, choices, args.memory_budget)
    return settings, predict(network, task, settings) if args.dry_run else None


def main():
    args = parse_args()
    device = choose_device(args.device)
    meta_cell = load_meta_cell(args.meta_cell)
    check_agreement(args, meta_cell.settings)
    settings, prediction = choose_settings(args, meta_cell.settings)
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
    supernet, architecture = build_supernet(meta_cell.settings, args.n, args.seed, device)

    # What counts is the meta-cell's content, not its place: a run is not to go on with another one.
    flags = {**vars(args), "meta_cell (SHA-256)": file_digest(args.meta_cell)}
    values = check_run(args.path, flags, "onnas.py", ("tasks.jsonl", "results.json"), MAY_CHANGE)
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
            "supernet_parameters": sum(parameter.numel() for parameter in supernet.parameters()),
            "supernet_storage_mib": meta_cell.separate(supernet).parameter_bytes() / MIB,
            "meta_cell_storage_mib": meta_cell.parameter_bytes() / MIB,
            "genotype": json.loads(genotypes.most_common(1)[0][0]),  # the one most often found
            "settings": values,
        },
    )
    interval = "" if ci95 is None else f" +- {ci95:.4f}"
    print(f"accuracy {accuracy:.4f}{interval} over {len(rows)} tasks; {args.path / 'results.json'}")


if __name__ == "__main__":
    run(
        main,
        "onnas.py",
        "--resume goes on after the last whole task.",
        less_memory="--step_by_step 1, a larger --split_num or --memory_budget MIB needs less",
    )
