"""The flags of onnas.py: what they are, which go together, and the search's settings that follow from them."""

import argparse
from pathlib import Path

from models.meta_cell import MetaCell
from models.supernet import SupernetSettings
from search_space.board.search_record import RECORDED_TASKS
from search_space.flags.shared import FULL_TASK_PRESET, add_run_flags, add_search_flags, add_task_flags, preset
from search_space.memory.plan import Prediction, Size, options, plan, predict
from search_space.methods import METHODS, method_flags, settings_of
from search_space.task_search import FASTEST, LEANEST, ORDINARY, SearchSettings
from utils.errors import InputError
from utils.export import check_export_path
from utils.run.cli import ArgumentParser, real, switch, whole

Datasets = dict[str, tuple[str, ...]]
# What a full task has no use for, and refuses.
FEW_SHOT_ONLY = ("hp_setting", "test_task_train_steps", "test_adapt_steps", "transductive")


def add_onnas_flags(parser: ArgumentParser, datasets: Datasets) -> None:
    """Args:
    datasets: for each kind of task the names of its data sets.
    """
    parser.add_argument(
        "--task", choices=("fewshot", "full"), default="fewshot", help="many small tasks, or one full data set"
    )
    parser.add_argument(
        "--meta_cell",
        type=Path,
        metavar="FILE",
        help="meta_cell.pt, written by tfml.py; a full task can do without (default: from scratch)",
    )
    add_run_flags(parser, path="runs/onnas")
    add_task_flags(parser, sum(datasets.values(), ()), None, "(default: omniglot, for a full task cifar10)")
    add_search_flags(parser)
    group = parser.add_argument_group(
        "network: the meta-cell's, if given they must agree; else 28 channels, 4 cells, 3 nodes or the genotype's"
    )
    group.add_argument("--init_channels", type=whole(2), help="C: channels of a node, even")
    group.add_argument("--layers", type=whole(1), help="cells")
    group.add_argument("--nodes", type=whole(1), help="nodes of a cell")
    group.add_argument("--reduction_layers", type=whole(0), nargs="*", help="cells of stride 2, counted from 0")
    group.add_argument("--partial_channels", type=whole(1), help="pcdarts: the candidates see 1/K of the channels")
    group = parser.add_argument_group("on-device search")
    group.add_argument(
        "--eval_epochs",
        type=whole(1),
        default=100,
        help=f"few-shot: test tasks; the steps of the first {RECORDED_TASKS} are shown by TensorBoard",
    )
    group.add_argument(
        "--search",
        choices=tuple(METHODS),
        default="onnas",
        help="onnas: only chosen candidates and edge pairs get gradient; random: chosen uniformly; full: all get "
        "gradient; metanas: the same with n separate cells; darts: without pairs; pcdarts: partial channels; "
        "these two by a plain softmax, without pruning",
    )
    group.add_argument(
        "--sampleno", type=whole(1), default=2, help="onnas, random: candidates of an edge that get gradient"
    )
    group.add_argument(
        "--alpha_expect", type=switch, default=1, help="onnas: 1 chooses by expected final value, 0 uniformly"
    )
    group.add_argument(
        "--beta_sampling", type=switch, default=1, help="onnas, random: 1 gives gradient to one edge pair a node"
    )
    group.add_argument(
        "--unrolled", type=switch, default=0, help="darts: 1 takes the architecture gradient one weight step ahead"
    )
    group.add_argument(
        "--batch_size", type=whole(2), help="images of a batch (default: the preset's, for a full task 64)"
    )
    group = parser.add_argument_group("memory")
    group.add_argument(
        "--split_num",
        type=whole(1),
        help="micro-batches of a batch, gradients accumulated (default: 1, or the budget's)",
    )
    group.add_argument(
        "--step_by_step",
        type=switch,
        help="1: back-propagation a cell and a candidate at a time; 0: all at once. The gradient is the same "
        "(default: 1; pcdarts knows 0 only)",
    )
    group.add_argument(
        "--schedule",
        choices=(FASTEST, LEANEST),
        help="step by step: fastest keeps each cell's two inputs, and takes two small micro-batches forward at once; "
        "leanest computes them again, one by one (default: fastest, or the budget's)",
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
    group = parser.add_argument_group("full task")
    group.add_argument("--epochs", type=whole(1), default=50, help="of the search")
    group.add_argument(
        "--warm_up_epochs", type=whole(0), default=25, help="the first of them, which train weights only"
    )
    group.add_argument(
        "--input_size",
        type=whole(8),
        metavar="PIXELS",
        help="side that images are resized to (default: as they are, if all are square and of one size)",
    )
    group.add_argument(
        "--genotype", type=Path, metavar="FILE", help="train this one's network (.json, or DARTS's .txt); no search"
    )
    group = parser.add_argument_group("full task: the derived network")
    group.add_argument("--derived_epochs", type=whole(0), default=100, help="of its training")
    group.add_argument("--derived_channels", type=whole(2), help="C (default: the searched network's)")
    group.add_argument(
        "--derived_layers",
        type=whole(1),
        help="cells; another number than searched has reductions at its thirds (default: the searched network's)",
    )
    group.add_argument(
        "--inherit_weights", type=switch, default=0, help="1: starts from the searched weights, 0: from scratch"
    )
    group.add_argument("--derived_lr", type=real(0), default=0.025, help="SGD's learning rate at the start")
    group.add_argument(
        "--drop_path_prob", type=real(0, 0.99), default=0.2, help="of an edge, for each image, at the last epoch"
    )
    group.add_argument("--auxiliary", type=switch, default=0, help="1: a second head helps to train")
    group.add_argument("--cutout", type=whole(0), default=0, help="side in pixels of a square hidden in each image")
    group.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="write the network as FILE.onnx and FILE.pt2: the derived one, or few-shot that of the last task",
    )


def check_flags(parser: ArgumentParser, args: argparse.Namespace, datasets: Datasets) -> None:
    """Refuses flags that do not go together, and gives those that depend on others their defaults."""
    few_shot = args.task == "fewshot"
    args.dataset = args.dataset or ("omniglot" if few_shot else "cifar10")
    if args.dataset not in datasets[args.task]:
        known = ", ".join(datasets[args.task])
        parser.error(f"argument --dataset: --task {args.task} knows {known}, not {args.dataset}")
    if few_shot and args.meta_cell is None:
        parser.error("argument --meta_cell: --task fewshot needs one, written by tfml.py")
    given = parser.given()
    for flag, value in settled_flags(args).items():
        if flag in given and getattr(args, flag) != value:
            right = "goes with --task fewshot" if value is None else f"--search {args.search} knows {value} only"
            parser.error(f"argument --{flag}: {right}")
        setattr(args, flag, value)  # so that what is recorded is what was used
    if few_shot and args.genotype is not None:
        parser.error("argument --genotype: goes with --task full")
    if args.unrolled and args.search != "darts":
        parser.error("argument --unrolled: 1 goes with --search darts")
    if args.partial_channels and args.search != "pcdarts":
        parser.error("argument --partial_channels: goes with --search pcdarts")
    if args.step_by_step and args.search == "pcdarts":
        parser.error("argument --step_by_step: --search pcdarts knows 0 only")
    if args.step_by_step is None:
        args.step_by_step = int(args.search != "pcdarts")
    if args.schedule and not args.step_by_step:
        parser.error("argument --schedule: goes with --step_by_step 1, not 0")
    if not few_shot and args.warm_up_epochs >= args.epochs and args.genotype is None:
        parser.error(f"argument --warm_up_epochs: must be less than --epochs {args.epochs}, got {args.warm_up_epochs}")
    if args.genotype is not None and args.inherit_weights:
        parser.error("argument --inherit_weights: 1 needs a search, and --genotype does without one")
    if args.export is not None:
        check_export_path(args.export)
    values = preset(args) if few_shot else FULL_TASK_PRESET
    args.batch_size = args.batch_size or values["test_batch_size"]
    args.w_lr = values["w_lr"] if args.w_lr is None else args.w_lr
    args.alpha_lr = values["alpha_lr"] if args.alpha_lr is None else args.alpha_lr


def settled_flags(args: argparse.Namespace) -> dict[str, str | float | None]:
    """The flags that the task or the method leaves no choice of, with what it takes; None: it does without."""
    return {**dict.fromkeys(FEW_SHOT_ONLY if args.task == "full" else ()), **method_flags(args.search)}


def check_agreement(args: argparse.Namespace, meta_cell: MetaCell, channels: int) -> None:
    """A meta-cell brings its own network: refuses other flags, images of other ``channels``, MetaNAS on one cell."""
    settings = meta_cell.settings
    for flag in ("init_channels", "layers", "nodes", "reduction_layers", "partial_channels"):
        asked, has = getattr(args, flag), settings.as_dict()[flag]
        if asked is not None and asked != has:
            raise InputError(f"{args.meta_cell} was trained with --{flag} {has}, not {asked}: leave the flag out.")
    if channels != settings.in_channels:
        raise InputError(
            f"{args.meta_cell} was trained on images of {settings.in_channels} channels, --dataset {args.dataset} has "
            f"{channels}: name a meta-cell that was trained on such images."
        )
    if METHODS[args.search].separate_cells and len(meta_cell.cells) < settings.layers:
        raise InputError(
            f"--search {args.search} needs a cell for each place, and {args.meta_cell} holds one for all: "
            "train with tfml.py --cells separate."
        )


def files_of_runs(log: str) -> tuple[str, ...]:
    """What tells that --path holds a run, of any kind: first the ``log`` that one like the present starts with."""
    return tuple(dict.fromkeys((log, "tasks.jsonl", "search.jsonl", "derived.jsonl", "results.json")))


def make_export_folder(path: Path | None) -> None:
    """Makes the folder of --export, so that one that cannot be made is known before the search."""
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder of --export {path}: {error.strerror}.") from error


def first_settings(args: argparse.Namespace) -> dict:
    """What the few-shot and the full task's settings have in common, but for memory."""
    schedule = (args.schedule or FASTEST) if args.step_by_step else ORDINARY
    return {"split_num": args.split_num or 1, "schedule": schedule, "unrolled": bool(args.unrolled)}


def choose_settings(
    args: argparse.Namespace, network: SupernetSettings, size: Size, shared: SearchSettings
) -> tuple[SearchSettings, Prediction | None]:
    """The search's settings, within the memory budget if there is one, and the prediction of its memory, if asked.

    Args:
        shared: the settings that do not depend on the method and on memory.
    """
    schedules = (args.schedule,) if args.schedule else (FASTEST, LEANEST)
    if not args.step_by_step:
        schedules = (ORDINARY,)
    settings = settings_of(args.search, shared, args.sampleno, bool(args.alpha_expect), bool(args.beta_sampling))
    if args.memory_budget is not None:
        return plan(network, size, options(network, size, settings, schedules, args.split_num), args.memory_budget)
    return settings, predict(network, size, settings) if args.dry_run else None
