"""CIFAR-10, CIFAR-100, MNIST and FashionMNIST as torchvision reads them, from its folders or its archives."""

import http.client
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST, VisionDataset
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from utils.errors import InputError
from utils.run.files import locked

SETS = {"cifar10": CIFAR10, "cifar100": CIFAR100, "mnist": MNIST, "fashionmnist": FashionMNIST}
# What torchvision raises for files that are absent, cut short or corrupt.
DAMAGE = (RuntimeError, ValueError, IndexError, AssertionError, EOFError, FileNotFoundError)
DOWNLOAD_FAILURES = (OSError, RuntimeError, http.client.HTTPException)


@dataclass(frozen=True)
class Archive:
    """A published file: where it belongs, its checksum, where it can be had from, and what it unpacks to."""

    path: Path
    md5: str
    urls: tuple[str, ...]
    contents: tuple[Path, ...]


def load_torchvision_set(dataset: str, data_path: Path, download: bool) -> tuple[VisionDataset, VisionDataset]:
    """The training and the test set, unpacked and, if ``download``, fetched where they are absent.

    Processes that come at once wait for the first.

    Args:
        dataset: a key of ``SETS``.
        data_path: holds torchvision's folder of the set, or its archive where torchvision puts it.

    Raises:
        InputError: the set is absent, cut short or corrupt, or its download failed.
    """
    try:
        return _read(dataset, data_path)
    except DAMAGE:
        pass  # it is not unpacked, or not whole
    except OSError as error:
        raise InputError(f"cannot read {dataset} in {data_path}: {error}.") from error
    archives = _archives(dataset, data_path)
    if not download:
        _refuse_unusable(dataset, data_path, archives)
    try:
        with locked(data_path / f".{dataset}.lock"):
            return _unpack_and_read(dataset, data_path, archives)
    except DOWNLOAD_FAILURES as error:
        if not download:
            raise InputError(f"cannot unpack {dataset} in {data_path}: {error}.") from error
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"--download of {dataset} failed ({reason}): {_by_hand(archives)}.") from error


def _read(dataset: str, data_path: Path) -> tuple[VisionDataset, VisionDataset]:
    return SETS[dataset](data_path, train=True), SETS[dataset](data_path, train=False)


def _unpack_and_read(dataset: str, data_path: Path, archives: list[Archive]) -> tuple[VisionDataset, VisionDataset]:
    try:
        return _read(dataset, data_path)  # another process may have unpacked it while this one waited
    except DAMAGE:
        pass
    for archive in archives:
        _fetch_and_unpack(archive)
    return _read(dataset, data_path)


def _fetch_and_unpack(archive: Archive) -> None:
    """Unpacks an archive over what is there; fetches it first if it is not whole, from the first address that works."""
    for url in archive.urls:
        try:
            download_and_extract_archive(url, archive.path.parent, filename=archive.path.name, md5=archive.md5)
            return
        except DOWNLOAD_FAILURES:
            if url == archive.urls[-1]:
                raise


def _archives(dataset: str, data_path: Path) -> list[Archive]:
    published = SETS[dataset]
    if issubclass(published, MNIST):
        folder = data_path / published.__name__ / "raw"
        return [
            Archive(
                folder / name,
                md5,
                tuple(f"{mirror}{name}" for mirror in published.mirrors),
                ((folder / name).with_suffix(""),),
            )
            for name, md5 in published.resources
        ]
    files = [*published.train_list, *published.test_list, (published.meta["filename"], published.meta["md5"])]
    contents = tuple(data_path / published.base_folder / name for name, _ in files)
    return [Archive(data_path / published.filename, published.tgz_md5, (published.url,), contents)]


def _refuse_unusable(dataset: str, data_path: Path, archives: list[Archive]) -> None:
    """Refuses a set whose unpacked files are not whole, unless every archive is."""
    unusable = [archive for archive in archives if not check_integrity(archive.path, archive.md5)]
    for archive in unusable:
        if archive.path.exists():
            raise InputError(
                f"{archive.path} is cut short or corrupt, its checksum is wrong: pass --download to fetch it again, or "
                f"{_by_hand([archive])}."
            )
    unpacked = [path for archive in unusable for path in archive.contents if path.exists()]
    if unpacked:
        raise InputError(
            f"{unpacked[0].parent} is not whole: a file is absent, cut short or corrupt: pass --download, or "
            f"{_by_hand(unusable)}."
        )
    if unusable:
        raise InputError(f"--data_path {data_path} holds no {dataset}: pass --download, or {_by_hand(unusable)}.")


def _by_hand(archives: list[Archive]) -> str:
    names = " and ".join(archive.urls[0] for archive in archives)
    return f"put {names} into {archives[0].path.parent}"
