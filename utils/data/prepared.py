"""Where the prepared files of Omniglot and miniImageNet lie, and how they come there."""

from pathlib import Path

WEBSITE = {
    "omniglot": "https://github.com/brendenlake/omniglot",
    "miniimagenet": "https://lyy.mpi-inf.mpg.de/mtl/download/Lmzjm9tX.html",
}
SPLITS = ("train", "val", "test")


def image_file(dataset: str, split: str) -> str:
    """The name of the file with a split's images."""
    return "data.hdf5" if dataset == "omniglot" else f"{split}_data.hdf5"


def label_file(dataset: str, split: str, use_vinyals_split: bool) -> str:
    """The name of the file with the names of a split's classes."""
    return f"{'vinyals_' if dataset == 'omniglot' and use_vinyals_split else ''}{split}_labels.json"


PREPARED_FILES = {
    "omniglot": (
        "data.hdf5",
        *(label_file("omniglot", split, False) for split in ("train", "test")),
        *(label_file("omniglot", split, True) for split in SPLITS),
    ),
    "miniimagenet": tuple(
        name
        for split in SPLITS
        for name in (image_file("miniimagenet", split), label_file("miniimagenet", split, True))
    ),
}


def prepare_command(dataset: str, data_path: Path | str) -> str:
    """The command that prepares a manual download."""
    return f"python torchmeta_loader.py --prepare {dataset} --source FILE_OR_DIR --data_path {data_path}"


def is_prepared(dataset: str, data_path: Path) -> bool:
    """Whether every file that torchmeta reads is there."""
    return all((data_path / dataset / name).is_file() for name in PREPARED_FILES[dataset])
