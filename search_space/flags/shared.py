"""The flags that the scripts share, the published presets, and the settings built from them."""

import argparse
from pathlib import Path

from search_space.normalizers import ANNEAL_MODES, NORMALIZERS, Normalizer
from search_space.task_search import SearchSettings
from utils.run.cli import DEVICES, ArgumentParser, folder, real, switch, whole

# The published settings. test_batch_size is the task batch of testing; miniImageNet's is 5 with one shot.
PRESETS = {
    "in_metanas": {
        "task_train_steps": 5,
        "n_train": 15,
        "batch_size": 20,
        "test_batch_size": 15,
        "meta_batch_size": 10,
        "w_lr": 0.01,
        "alpha_lr": 0.01,
        "w_meta_lr": 1.0,
        "a_meta_lr": 0.6,
    },
    "og_metanas": {
        "task_train_steps": 5,
        "n_train": 15,
        "batch_size": 20,
        "test_batch_size": 10,
        "meta_batch_size": 10,
        "w_lr": 0.005,
        "alpha_lr": 0.005,
        "w_meta_lr": 1.0,
        "a_meta_lr": 0.6,
    },
}


# method.md's full task: CIFAR-10.
FULL_TASK_PRESET = {"test_batch_size": 64, "w_lr": 0.025, "alpha_lr": 3e-4}


def preset(args: argparse.Namespace) -> dict:
    """The preset that ``args`` names, or the one of its data set."""
    name = args.hp_setting or ("in_metanas" if args.dataset == "miniimagenet" else "og_metanas")
    values = dict(PRESETS[name])
    if name == "in_metanas" and args.k == 1:
        values["test_batch_size"] = 5
    return values


def add_run_flags(parser: ArgumentParser, path: str) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--path", type=folder, default=Path(path), help="folder that everything is written into")
    group.add_argument("--name", default="", help="a name for the run in the progress bar and in args.json")
    group.add_argument("--seed", type=whole(0), default=21, help="of every random draw")
    group.add_argument("--device", choices=DEVICES, default="auto", help="auto: a GPU where there is one")
    group.add_argument(
        "--tf32", type=switch, default=0, help="1: a GPU rounds what it multiplies to TF32, 11 of float32's 24 bits"
    )
    group.add_argument("--resume", action="store_true", help="go on with the run in --path, if there is one")


def add_task_flags(
    parser: ArgumentParser, datasets: tuple[str, ...], default: str | None = "omniglot", says: str = ""
) -> None:
    """Args:
    default: the data set. says: what its help adds.
    """
    group = parser.add_argument_group("tasks")
    group.add_argument("--dataset", choices=datasets, default=default, help=f"where the images are from {says}".strip())
    group.add_argument(
        "--data_path", type=folder, default=Path("data"), help="folder of the data sets, or the image folder"
    )
    group.add_argument("--download", action="store_true", help="fetch the data set if it is not in --data_path")
    group.add_argument(
        "--use_vinyals_split",
        type=switch,
        default=1,
        help="Omniglot: 1 Vinyals' 1028/172/423 characters, 0 background/evaluation (964/659)",
    )
    group.add_argument("--n", type=whole(2, 10_000), default=5, help="ways: classes of a task")
    group.add_argument("--k", type=whole(1, 10_000), default=5, help="shots: support images a class of a test task")
    group.add_argument("--q", type=whole(1, 10_000), default=1, help="query images a class of a test task")
    group.add_argument("--workers", type=whole(0), default=0, help="processes that load tasks beside the main one")


def add_search_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("search")
    group.add_argument(
        "--hp_setting", choices=tuple(PRESETS), help="few-shot: published preset (default: that of the data set)"
    )
    group.add_argument("--w_lr", type=real(0), help="learning rate of the weights (default: the preset's)")
    group.add_argument("--alpha_lr", type=real(0), help="that of alpha and beta (default: the preset's)")
    group.add_argument(
        "--test_task_train_steps", type=whole(1), default=10, help="few-shot: epochs over a test task's support set"
    )
    group.add_argument(
        "--test_adapt_steps",
        type=real(0, 1),
        default=1.0,
        help="few-shot: share of these epochs, from the first, that adapt alpha and beta too; the rest adapts weights",
    )
    group.add_argument("--normalizer", choices=NORMALIZERS, default="softmax", help="from alpha and beta to weights")
    group.add_argument(
        "--normalizer_temp_anneal_mode", choices=ANNEAL_MODES, default="linear", help="how T goes over a task"
    )
    group.add_argument("--normalizer_t_max", type=real(1e-3), default=1.0, help="temperature T at a task's start")
    group.add_argument("--normalizer_t_min", type=real(1e-3), default=0.1, help="T at its end")
    group.add_argument(
        "--alpha_prune_threshold", type=real(0, 1), default=0.01, help="candidates less probable than this are not run"
    )
    group.add_argument(
        "--transductive",
        type=switch,
        default=1,
        help="few-shot, 1: BN normalises a query batch by its own statistics; 0: by the support set's, image by image",
    )


def normalizer(args: argparse.Namespace) -> Normalizer:
    return Normalizer(args.normalizer, args.normalizer_temp_anneal_mode, args.normalizer_t_max, args.normalizer_t_min)


def evaluation_settings(args: argparse.Namespace, batch_size: int, **selection) -> SearchSettings:
    """How a test task is adapted."""
    return SearchSettings(
        epochs=args.test_task_train_steps,
        architecture_epochs=round(args.test_adapt_steps * args.test_task_train_steps),
        batch_size=batch_size,
        w_lr=args.w_lr,
        alpha_lr=args.alpha_lr,
        normalizer=normalizer(args),
        prune_threshold=args.alpha_prune_threshold,
        transductive=bool(args.transductive),
        **selection,
    )
