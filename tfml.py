"""Two-Fold Meta-Learning: condenses the n cells of a supernet into one meta-cell.

    python tfml.py --dataset omniglot --path runs/omniglot

Writes meta_cell.pt, checkpoint.pt, args.json, metrics.jsonl and TensorBoard events into --path.
"""

import math
import time
from dataclasses import replace
from statistics import fmean

from torch.utils.tensorboard import SummaryWriter

from models.meta_cell import MetaCell, first_fold, second_fold
from models.supernet import EDGES, PAIRS, SupernetSettings
from search_space.batched_search import adapt_tasks
from search_space.build import build_supernet, check_meta_cell
from search_space.evaluation import search_task
from search_space.flags import add_run_flags, add_search_flags, add_task_flags, evaluation_settings, normalizer, preset
from search_space.primitives import FEW_SHOT
from search_space.task_search import SearchSettings
from torchmeta_loader import INPUT_SHAPES, episode_loader, few_shot_tasks, held_out_split
from utils.cli import ArgumentParser, real, run, whole
from utils.device import choose_device
from utils.errors import InputError
from utils.files import read_tensors, write_tensors
from utils.intervals import mean_and_ci95
from utils.memory import MIB
from utils.progress import progress_bar
from utils.run_directory import JsonLines, check_run, open_run

# What may differ between a run and its continuation: how long it is, where and how it runs.
MAY_CHANGE = ("path", "name", "data_path", "download", "meta_epochs", "eval_freq", "eval_epochs", "device", "workers")


def parse_args():
    parser = ArgumentParser(prog="tfml.py", description=__doc__.splitlines()[0])
    add_run_flags(parser, path="runs/tfml")
    add_task_flags(parser, tuple(INPUT_SHAPES))
    group = parser.add_argument_group("meta-training")
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
    group.add_argument("--w_meta_lr", type=real(0), help="step of the first fold for weights (default: the preset's)")
    group.add_argument("--a_meta_lr", type=real(0), help="that for alpha and beta (default: the preset's)")
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
    if args.reduction_layers is None:
        args.reduction_layers = [layer for layer in (1, 3) if layer < args.layers]
    return args


def meta_test(meta_cell, supernet, architecture, settings, seed, loader):
    """Searches the test tasks; returns the metrics of a meta-test."""
    results = [
        search_task(meta_cell, supernet, architecture, settings, batch, seed, task) for task, batch in enumerate(loader)
    ]
    accuracy, ci95 = mean_and_ci95([result.accuracy for result in results])
    losses = [result.loss for result in results]
    loss = None if None in losses else fmean(losses)
    return {"test_loss": loss, "test_accuracy": accuracy, "test_accuracy_ci95": ci95}


def main():
    args = parse_args()
    device = choose_device(args.device)
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

    # The state: meta-cell, stem and head, alpha and beta; at the start, or where the run to resume got to.
    supernet, architecture = build_supernet(settings, args.n, args.seed, device)
    meta_cell = initial = MetaCell.of(supernet, architecture, separate=args.cells == "separate")
    first = 0
    checkpoint = args.path / "checkpoint.pt"
    values = check_run(args.path, vars(args), "tfml.py", (checkpoint.name, "meta_cell.pt"), MAY_CHANGE)
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
    open_run(args.path, values)
    metrics = JsonLines(args.path / "metrics.jsonl", keep=lambda number, row: number < first)
    tensorboard = SummaryWriter(args.path / "tb", purge_step=first)

    def save(meta_epochs_done):
        write_tensors(checkpoint, {**meta_cell.as_dict(), "meta_epoch": meta_epochs_done})
        meta_cell.save(args.path / "meta_cell.pt")

    warm_up = SearchSettings(
        epochs=args.task_train_steps,
        architecture_epochs=0,
        batch_size=args.batch_size,
        w_lr=args.w_lr,
        alpha_lr=args.alpha_lr,
        normalizer=normalizer(args),
        prune_threshold=args.alpha_prune_threshold,
        drop_path_prob=args.drop_path_prob,
    )
    searching = replace(warm_up, architecture_epochs=args.task_train_steps)
    test = evaluation_settings(args, args.test_batch_size)

    save(first)
    episodes = range(first * args.meta_batch_size, args.meta_epochs * args.meta_batch_size)
    loader = episode_loader(train_tasks, episodes, args.meta_batch_size, args.workers)
    progress = progress_bar(loader, args.name or "TFML", "meta-epoch", first, args.meta_epochs)
    for meta_epoch, meta_batch in enumerate(progress, start=first):
        started = time.perf_counter()
        tests = (meta_epoch + 1) % args.eval_freq == 0 or meta_epoch + 1 == args.meta_epochs
        train = searching if meta_epoch >= args.warm_up_epochs else warm_up
        # Unfold for each task, adapt on its support set.
        adapted, peaks = [], []
        for number in range(0, args.meta_batch_size, args.tasks_at_once):
            group = slice(number, number + args.tasks_at_once)
            batch = [tensor[group].to(device) for part in ("support", "query") for tensor in meta_batch[part]]
            task = meta_epoch * args.meta_batch_size + number
            measure = tests and number == 0
            ends, peak = adapt_tasks(meta_cell, supernet, architecture, train, args.seed, task, batch, measure)
            adapted += ends
            peaks.append(peak)
        states, losses, accuracies = zip(*adapted, strict=True)
        # First fold, over tasks.
        start = meta_cell.separate(supernet)
        folded = first_fold(start, list(states), args.task_weighting, args.w_meta_lr, args.a_meta_lr)
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
            "peak_memory_mib": peaks[0],
        }
        if tests:
            loader = episode_loader(test_tasks, range(args.eval_epochs), workers=args.workers)
            row |= meta_test(meta_cell, supernet, architecture, test, args.seed, loader)
            progress.write(
                f"Meta-epoch {meta_epoch + 1}: accuracy {row['test_accuracy']:.4f} on classes not trained on"
            )
        metrics.append(row)
        for name, value in row.items():
            if value is not None and name != "meta_epoch":
                tensorboard.add_scalar(name, value, meta_epoch)
        progress.set_postfix(loss=f"{row['train_loss']:.3f}", accuracy=f"{row['train_accuracy']:.3f}", refresh=False)
        save(meta_epoch + 1)
    tensorboard.close()
    stored, unfolded = meta_cell.parameter_bytes() / MIB, meta_cell.separate(supernet).parameter_bytes() / MIB
    print(f"{args.path / 'meta_cell.pt'}: {stored:.3f} MiB of parameters, unfolded {unfolded:.3f} MiB")


if __name__ == "__main__":
    run(
        main,
        "tfml.py",
        "--resume goes on after the last whole meta-epoch.",
        less_memory="a smaller --batch_size or --init_channels needs less",
    )
