"""CIFAR-10, CIFAR-100, MNIST and FashionMNIST as torchvision reads them, from its folders or its archives."""

import http.client
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST, VisionDataset
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from utils.errors import InputError
from utils.run.files import locked

SETS = {"cifar10": CIFAR10, "cifar100": CIFAR100, "mnist": MNIST, "fashionmnist": FashionMNIST}
DOWNLOAD_FAILURES = (OSError, RuntimeError, http.client.HTTPException)


@dataclass(frozen=True)
class Archive:
    """A published file: where it belongs, its checksum, and the addresses that it can be had from.

    contents: the files that it unpacks to, with checksums where torchvision knows them.
    """

    path: Path
    md5: str
    urls: tuple[str, ...]
    contents: dict[Path, str | None]

    def is_whole(self) -> bool:
        return check_integrity(self.path, self.md5)

    def is_unpacked(self) -> bool:
        return all(check_integrity(path, md5) for path, md5 in self.contents.items())


def load_torchvision_set(dataset: str, data_path: Path, download: bool) -> tuple[VisionDataset, VisionDataset]:
    """The training and the test set, unpacked and, if ``download``, fetched where they are absent.

    Processes that come at once wait for the first.

    Args:
        dataset: a key of ``SETS``.
        data_path: holds torchvision's folder of the set, or its archive where torchvision puts it.

    Raises:
        InputError: the set is absent, cut short or corrupt, or its download failed. Nothing half-written is left.
    """
    try:
        packed = _packed(dataset, data_path)
        unusable = [archive for archive in packed if not archive.is_whole()]
        if unusable and not download:
            raise _refusal(dataset, data_path, unusable)
        if packed:
            with locked(data_path / f".{dataset}.lock"):
                _fetch_and_unpack(dataset, data_path, download)
        return _read(dataset, data_path, train=True), _read(dataset, data_path, train=False)
    except OSError as error:
        raise InputError(f"cannot unpack or read {dataset} in {data_path}: {error}.") from error


def _packed(dataset: str, data_path: Path) -> list[Archive]:
    return [archive for archive in _archives(dataset, data_path) if not archive.is_unpacked()]


def _fetch_and_unpack(dataset: str, data_path: Path, download: bool) -> None:
    """What is packed still: another process may have unpacked it while this one waited for the lock."""
    for archive in _packed(dataset, data_path):
        if download and not archive.is_whole():
            _fetch(dataset, archive)
        _unpack(archive.path)


def _archives(dataset: str, data_path: Path) -> list[Archive]:
    published = SETS[dataset]
    if issubclass(published, MNIST):
        folder = data_path / published.__name__ / "raw"
        return [
            Archive(
                folder / name,
                md5,
                tuple(f"{mirror}{name}" for mirror in published.mirrors),
                {(folder / name).with_suffix(""): None},
            )
            for name, md5 in published.resources
        ]
    folder = data_path / published.base_folder
    files = [*published.train_list, *published.test_list, (published.meta["filename"], published.meta["md5"])]
    contents = {folder / name: md5 for name, md5 in files}
    return [Archive(data_path / published.filename, published.tgz_md5, (published.url,), contents)]


def _refusal(dataset: str, data_path: Path, archives: list[Archive]) -> InputError:
    """Of archives that are not there, or not whole, and whose contents are not either."""
    for archive in archives:
        for path, md5 in {archive.path: archive.md5, **archive.contents}.items():
            if path.is_file() and not check_integrity(path, md5):
                return InputError(
                    f"{path} is cut short or corrupt, its checksum is wrong: pass --download to fetch it again, or "
                    f"{_by_hand([archive])}."
                )
    return InputError(f"--data_path {data_path} holds no {dataset}: pass --download, or {_by_hand(archives)}.")


def _fetch(dataset: str, archive: Archive) -> None:
    folder = archive.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as temporary:
            _fetch_from_any(archive, temporary)
            Path(temporary, archive.path.name).replace(archive.path)
    except DOWNLOAD_FAILURES as error:
        raise InputError(f"--download of {dataset} failed ({error}): {_by_hand([archive])}.") from error


def _fetch_from_any(archive: Archive, folder: str) -> None:
    """Tries one address after the other; the last one's failure counts."""
    *others, last = archive.urls
    for url in others:
        try:
            download_url(url, folder, archive.path.name, archive.md5)
            return
        except DOWNLOAD_FAILURES:
            continue
    download_url(last, folder, archive.path.name, archive.md5)


def _unpack(archive: Path) -> None:
    """Unpacks an archive beside itself; what of it is there already is replaced."""
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="unpacking-") as temporary:
        extract_archive(archive, temporary)
        for entry in Path(temporary).iterdir():
            target = archive.parent / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            entry.replace(target)


def _read(dataset: str, data_path: Path, train: bool) -> VisionDataset:
    try:
        return SETS[dataset](data_path, train=train)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        # Of MNIST's unpacked files, which have no checksums.
        files = data_path / SETS[dataset].__name__ / "raw" / f"{'train' if train else 't10k'}-*-ubyte"
        raise InputError(
            f"{files} are cut short or corrupt: delete them, and they are unpacked or, with --download, fetched again."
        ) from error


def _by_hand(archives: list[Archive]) -> str:
    names = " and ".join(archive.urls[0] for archive in archives)
    return f"put {names} into {archives[0].path.parent}"
