"""Two-Fold Meta-Learning: condenses the n cells of a supernet into one meta-cell.

    python tfml.py --dataset omniglot --path runs/omniglot
    torchrun --standalone --nproc_per_node 2 -- tfml.py --dataset omniglot --path runs/omniglot

Writes meta_cell.pt, checkpoint.pt, args.json, metrics.jsonl and TensorBoard events into --path, at the end results.json
and report.html. On a CPU the meta-cell is the same for any number of processes: each computes on one thread, unless
OMP_NUM_THREADS says otherwise.
"""

from utils.run import start

if __name__ == "__main__":
    start.begin("tfml.py")  # before PyTorch is imported

import math
import time
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean

import torch

from models.meta_cell import MetaCell, first_fold, second_fold
from models.supernet import EDGES, PAIRS, SupernetSettings
from search_space.board.board import Board
from search_space.board.search_record import SearchRecord
from search_space.build import build_supernet, check_meta_cell, load_meta_cell
from search_space.evaluation import network_figures, search_task
from search_space.flags.less_memory import less_memory
from search_space.flags.shared import (
    add_run_flags,
    add_search_flags,
    add_task_flags,
    evaluation_settings,
    normalizer,
    preset,
)
from search_space.meta.batched_search import adapt_tasks
from search_space.primitives import FEW_SHOT
from search_space.task_search import SearchSettings
from torchmeta_loader import INPUT_SHAPES, content_digest, episode_loader, few_shot_tasks, held_out_split
from utils.errors import InputError
from utils.report.page import write_report
from utils.results.intervals import mean_and_ci95
from utils.results.row_log import RowLog
from utils.results.schema import MetaEpochRow, MetaTrainingResults, TaskRow, write_results
from utils.run.cli import ArgumentParser, real, run, switch, whole
from utils.run.device import choose_device, device_name
from utils.run.files import file_digest, read_tensors, write_tensors
from utils.run.progress import progress_bar
from utils.run.ranks import join_ranks, use_one_thread
from utils.run.run_directory import check_run, open_run
from utils.run.torchrun import is_restarted, remember_run

# What may differ between a run and its continuation: how long it is, where and how it runs.
MAY_CHANGE = (
    *("path", "name", "data_path", "download", "meta_cell"),
    *("meta_epochs", "eval_freq", "eval_epochs", "device", "workers"),
)


def parse_args():
    parser = ArgumentParser(prog="tfml.py", description=__doc__.splitlines()[0])
    add_run_flags(parser, path="runs/tfml")
    add_task_flags(parser, tuple(INPUT_SHAPES))
    group = parser.add_argument_group("meta-training")
    group.add_argument(
        "--meta_cell",
        type=Path,
        help="start from this meta_cell.pt of the same network; the head of another --n starts at zero (default: "
        "from scratch)",
    )
    group.add_argument("--meta_epochs", type=whole(0), default=30000, help="0 writes the untrained meta-cell")
    group.add_argument(
        "--warm_up_epochs", type=whole(0), default=15000, help="meta-epochs, from the first, that adapt weights only"
    )
    group.add_argument("--meta_batch_size", type=whole(1), help="tasks of a meta-epoch (default: the preset's)")
    group.add_argument(
        "--n_train", type=whole(1), help="support images a class of a training task (default: the preset's)"
    )
    group.add_argument(
        "--task_train_steps", type=whole(1), help="epochs over a training task's support set (default: the preset's)"
    )
    group.add_argument("--batch_size", type=whole(2), help="images of a training task's batch (default: the preset's)")
    group.add_argument(
        "--tasks_at_once",
        type=whole(1),
        help="tasks adapted side by side, one by one with --partial_channels; another number rounds differently "
        "(default: 5 of images of up to 32x32 pixels, else 1)",
    )
    group.add_argument(
        "--compile",
        type=switch,
        default=0,
        help="1: tasks side by side run what torch.compile makes of their passes, where none has pruned a candidate, "
        "after minutes of compiling: on a GPU CUDA graphs; on a CPU compiling takes longer than it saves",
    )
    group.add_argument("--w_meta_lr", type=real(0), help="step of the first fold for weights (default: the preset's)")
    group.add_argument("--a_meta_lr", type=real(0), help="that for alpha and beta (default: the preset's)")
    group.add_argument(
        "--meta_lr_decay",
        choices=("none", "linear"),
        default="none",
        help="linear: both steps of the first fold shrink to 0 over --meta_epochs, as Reptile's (Nichol et al. 2018)",
    )
    group.add_argument(
        "--drop_path_prob", type=real(0, 0.99), default=0.2, help="of each candidate's output, for each image"
    )
    group.add_argument(
        "--task_weighting", choices=("softmax", "mean"), default="softmax", help="coefficients of the first fold"
    )
    group.add_argument(
        "--cell_weighting", choices=("softmax", "mean"), default="mean", help="coefficients of the second fold"
    )
    group.add_argument(
        "--cells", choices=("meta", "separate"), default="meta", help="separate: keep n cells (MetaNAS, the baseline)"
    )
    group = parser.add_argument_group("network")
    group.add_argument("--init_channels", type=whole(2), default=28, help="C: channels of a node, even")
    group.add_argument("--layers", type=whole(1), default=4, help="cells")
    group.add_argument("--nodes", type=whole(1), default=3, help="nodes of a cell")
    group.add_argument(
        "--reduction_layers", type=whole(0), nargs="*", help="cells of stride 2, from 0 (default: 1 and 3, if there)"
    )
    group.add_argument(
        "--partial_channels",
        type=whole(1),
        default=1,
        help="K: the candidates see 1/K of the channels, and beta weighs edges and not pairs (PC-DARTS, the baseline)",
    )
    group = parser.add_argument_group("meta-test, on classes that are not trained on")
    group.add_argument("--eval_freq", type=whole(1), default=1500, help="meta-epochs from one meta-test to the next")
    group.add_argument("--eval_epochs", type=whole(1), default=100, help="tasks of a meta-test")
    group.add_argument("--test_batch_size", type=whole(2), help="images of a test task's batch (default: the preset's)")
    add_search_flags(parser)
    args = parser.parse_args()
    for flag, value in preset(args).items():
        if getattr(args, flag) is None:
            setattr(args, flag, value)
    if args.tasks_at_once is None:
        # Of large images a task by itself fills the caches, and takes gigabytes.
        args.tasks_at_once = 5 if max(INPUT_SHAPES[args.dataset][1:]) <= 32 else 1
    if args.compile and (min(args.tasks_at_once, args.meta_batch_size) == 1 or args.partial_channels > 1):
        parser.error(
            "argument --compile: 1 is for tasks side by side: --tasks_at_once and --meta_batch_size 2 or more, "
            "--partial_channels 1"
        )
    if args.reduction_layers is None:
        args.reduction_layers = [layer for layer in (1, 3) if layer < args.layers]
    return args


def start_from(path, cells, supernet, architecture):
    """Copies a meta-cell, an earlier run's, into a new supernet.

    Raises:
        InputError: it does not fit the supernet, or --cells.
    """
    meta_cell = load_meta_cell(path)
    asked = supernet.settings.as_dict()
    for name, value in meta_cell.settings.as_dict().items():
        if value != asked[name]:
            raise InputError(
                f"--meta_cell {path} is of another network than asked for: {name} {value}, not {asked[name]}."
            )
    if len(meta_cell.cells) > 1 and cells == "meta":
        raise InputError(f"--meta_cell {path} holds a cell for each place: it needs --cells separate.")
    meta_cell.unfold(supernet, architecture)


def adapt(group, batches, meta_cell, supernet, architecture, settings, seed, measured):
    """Unfolds the state and adapts it to the training tasks of a group, side by side.

    Args:
        group: the tasks' numbers, consecutive.
        batches: iterator over their data.
        measured: the task whose group's peak memory of adapting is measured, or None.

    Returns:
        For each task its :class:`Adapted` end; and the figures of the memory, none if they were not measured.
    """
    data = [[tensor for part in next(batches).values() for tensor in part] for _ in group]
    batch = [torch.cat(parts).to(supernet.head.weight.device) for parts in zip(*data, strict=True)]
    return adapt_tasks(meta_cell, supernet, architecture, settings, seed, group[0], batch, measured == group[0])


def meta_test(ranks, meta_cell, supernet, architecture, settings, seed, tasks, number, workers):
    """Searches the first ``number`` test tasks.

    Returns:
        The metrics of a meta-test, the first task's result and its record; the latter in the first process alone.
    """
    batches, record = iter(episode_loader(tasks, ranks.share(range(number)), workers=workers)), SearchRecord()

    def search(task):
        first = task == 0
        return search_task(
            *(meta_cell, supernet, architecture, settings, next(batches), seed, task),
            measure=first,
            record=record if first else None,
        )

    results = ranks.gather(search, range(number))
    accuracy, ci95 = mean_and_ci95([result.accuracy for result in results])
    losses = [result.loss for result in results]
    loss = None if None in losses else fmean(losses)
    return {"test_loss": loss, "test_accuracy": accuracy, "test_accuracy_ci95": ci95}, results[0], record


def main():
    args = parse_args()
    device = choose_device(args.device, tf32=bool(args.tf32))
    use_one_thread()
    ranks = join_ranks(device)
    settings = SupernetSettings(
        in_channels=INPUT_SHAPES[args.dataset][0],
        init_channels=args.init_channels,
        layers=args.layers,
        nodes=args.nodes,
        reduction_layers=tuple(args.reduction_layers),
        primitives=FEW_SHOT,
        edge_weights=PAIRS if args.partial_channels == 1 else EDGES,
        partial_channels=args.partial_channels,
    )
    vinyals = bool(args.use_vinyals_split)
    source = {"seed": args.seed, "data_path": args.data_path, "use_vinyals_split": vinyals, "download": args.download}
    # A training task has one query a class: Omniglot has only 20 drawings a character.
    train_tasks = few_shot_tasks(args.dataset, "train", ways=args.n, shots=args.n_train, queries=1, **source)
    test_split = held_out_split(args.dataset, vinyals)
    test_tasks = few_shot_tasks(args.dataset, test_split, ways=args.n, shots=args.k, queries=args.q, **source)

    for note in (*train_tasks.notes, *test_tasks.notes):
        print(note)
    if 0 < args.meta_epochs <= args.warm_up_epochs:
        print(f"All {args.meta_epochs} meta-epochs adapt weights only: --warm_up_epochs is {args.warm_up_epochs}.")
    supernet, architecture = build_supernet(settings, args.n, args.seed, device)
    if args.meta_cell is not None:
        start_from(args.meta_cell, args.cells, supernet, architecture)
    checkpoint = args.path / "checkpoint.pt"

    def open_or_resume():
        """The plain values of the flags, and the state and how many meta-epochs it has: new, or of the run to resume.

        The state: meta-cell, stem and head, alpha and beta.
        """
        initial = MetaCell.of(supernet, architecture, separate=args.cells == "separate")
        flags = {
            **vars(args),
            # What counts is the content, not the place: a run is not to go on with others.
            "data_path (SHA-256)": content_digest(train_tasks, test_tasks),
            "meta_cell (SHA-256)": args.meta_cell and file_digest(args.meta_cell),
            "resume": args.resume or is_restarted(args.path),
        }
        # A decay reaches 0 at the end: a longer run would have been another one from its start.
        fixed = () if args.meta_lr_decay == "none" else ("meta_epochs",)
        may_change = tuple(flag for flag in MAY_CHANGE if flag not in fixed)
        values = check_run(args.path, flags, "tfml.py", (checkpoint.name, "meta_cell.pt"), may_change)
        meta_cell, first = initial, 0
        if checkpoint.exists():
            saved = read_tensors(checkpoint)
            meta_cell = MetaCell.from_dict(saved, checkpoint)
            check_meta_cell(meta_cell, checkpoint)
            if (meta_cell.settings, meta_cell.ways, len(meta_cell.cells)) != (settings, args.n, len(initial.cells)):
                raise InputError(f"{checkpoint} is of another run than args.json beside it: name another folder.")
            first = saved.get("meta_epoch")
            if not isinstance(first, int) or first < 0:
                raise InputError(f"{checkpoint} does not say how far the run got: name another folder.")
            print(f"{args.path} has {first} meta-epochs; going on to {max(first, args.meta_epochs)}.")
        remember_run(args.path)
        open_run(args.path, values)
        return values, meta_cell, first

    def save(meta_epochs_done):
        write_tensors(checkpoint, {**meta_cell.as_dict(), "meta_epoch": meta_epochs_done})
        meta_cell.save(args.path / "meta_cell.pt")

    values, meta_cell, first = ranks.from_first(open_or_resume)
    if ranks.is_first:
        metrics = RowLog(args.path / "metrics.jsonl", MetaEpochRow, before=first)
        board = Board(args.path / "tb", settings, first)
        save(first)

    warm_up = SearchSettings(
        epochs=args.task_train_steps,
        architecture_epochs=0,
        batch_size=args.batch_size,
        w_lr=args.w_lr,
        alpha_lr=args.alpha_lr,
        normalizer=normalizer(args),
        prune_threshold=args.alpha_prune_threshold,
        drop_path_prob=args.drop_path_prob,
        compiled=bool(args.compile),
    )
    searching = replace(warm_up, architecture_epochs=args.task_train_steps)
    test = evaluation_settings(args, args.test_batch_size)
    learning_rates = {rate: vars(args)[rate] for rate in ("w_lr", "alpha_lr", "w_meta_lr", "a_meta_lr")}

    def groups(meta_epoch):
        """The tasks of a meta-batch, in groups that are adapted together."""
        tasks = range(meta_epoch * args.meta_batch_size, (meta_epoch + 1) * args.meta_batch_size)
        return [tasks[place : place + args.tasks_at_once] for place in range(0, len(tasks), args.tasks_at_once)]

    meta_epochs = range(first, args.meta_epochs)
    own_tasks = [task for meta_epoch in meta_epochs for group in ranks.share(groups(meta_epoch)) for task in group]
    batches = iter(episode_loader(train_tasks, own_tasks, workers=args.workers))
    progress = progress_bar(meta_epochs, args.name or "TFML", "meta-epoch", first, args.meta_epochs, ranks.is_first)
    for meta_epoch in progress:
        started = time.perf_counter()
        tests = (meta_epoch + 1) % args.eval_freq == 0 or meta_epoch + 1 == args.meta_epochs
        train = searching if meta_epoch >= args.warm_up_epochs else warm_up
        # Unfold for each task, adapt on its support set.
        measured = meta_epoch * args.meta_batch_size if tests else None
        adapt_group = partial(
            adapt,
            batches=batches,
            meta_cell=meta_cell,
            supernet=supernet,
            architecture=architecture,
            settings=train,
            seed=args.seed,
            measured=measured,
        )
        ends, memory = zip(*ranks.gather(adapt_group, groups(meta_epoch)), strict=True)
        adapted, losses, accuracies = zip(*chain.from_iterable(ends), strict=True)
        # First fold, over tasks.
        start = meta_cell.separate(supernet)
        decay = 1.0 if args.meta_lr_decay == "none" else 1 - meta_epoch / args.meta_epochs
        folded = first_fold(start, adapted, args.task_weighting, decay * args.w_meta_lr, decay * args.a_meta_lr)
        # Second fold, over cells.
        meta_cell = folded if args.cells == "separate" else second_fold(meta_cell, folded, args.cell_weighting)
        if not (math.isfinite(fmean(losses)) and meta_cell.is_finite()):
            raise InputError(
                f"meta-epoch {meta_epoch} diverged, its numbers are not finite: lower --w_lr or --w_meta_lr."
            )

        seconds = time.perf_counter() - started
        row = {
            "meta_epoch": meta_epoch,
            "train_loss": fmean(losses),
            "train_accuracy": fmean(accuracies),
            "seconds": seconds,
            "tasks_per_second": args.meta_batch_size / seconds,
            **memory[0],
        }
        if tests:
            measured_test, first_result, record = meta_test(
                ranks, meta_cell, supernet, architecture, test, args.seed, test_tasks, args.eval_epochs, args.workers
            )
            row |= measured_test
            progress.write(
                f"Meta-epoch {meta_epoch + 1}: accuracy {row['test_accuracy']:.4f} on classes not trained on"
            )
        if not ranks.is_first:
            continue
        logged = MetaEpochRow(**row)
        if tests:
            board.add_meta_test(meta_epoch, TaskRow(**asdict(first_result)), record)
        board.add_meta_epoch(logged, learning_rates if tests else {})
        metrics.append(logged)
        progress.set_postfix(loss=f"{row['train_loss']:.3f}", accuracy=f"{row['train_accuracy']:.3f}", refresh=False)
        save(meta_epoch + 1)
    ranks.leave()
    if not ranks.is_first:
        return
    figures = network_figures(supernet, architecture, meta_cell)
    write_results(
        args.path / "results.json",
        MetaTrainingResults(
            dataset=args.dataset,
            data=asdict(train_tasks.size),
            device=device_name(device),
            network=settings.as_dict(),
            meta_epochs=max(first, args.meta_epochs),
            **figures,
            meta_cell_sha256=file_digest(args.path / "meta_cell.pt"),
            settings=values,
        ),
    )
    write_report(args.path)
    stored, unfolded = figures["meta_cell_storage_mib"], figures["supernet_storage_mib"]
    print(f"{args.path / 'meta_cell.pt'}: {stored:.3f} MiB of parameters, unfolded {unfolded:.3f} MiB")


if __name__ == "__main__":
    run(
        main,
        "tfml.py",
        "--resume goes on after the last whole meta-epoch.",
        less_memory=lambda: less_memory(vars(parse_args())),
    )
