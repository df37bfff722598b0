"""The published sets in torchvision's layout, from tiny archives with the checksums patched to fit."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST

from utils.data.full_task_data import load_full_task
from utils.data.image_batches import image_batches
from utils.errors import InputError

CIFARS = {"cifar10": CIFAR10, "cifar100": CIFAR100}
MNISTS = {"mnist": MNIST, "fashionmnist": FashionMNIST}
CLASSES = 5
TRAIN, TEST = 20, 10


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_cifar(folder: Path, dataset: str, monkeypatch) -> Path:
    """The archive of a tiny CIFAR, which torchvision then takes for the published one; returns it."""
    published = CIFARS[dataset]
    files = {}
    for number, (name, _) in enumerate(published.train_list + published.test_list):
        count = TEST if name.startswith("test") else TRAIN
        labels = [index % CLASSES for index in range(count)]
        key = "labels" if dataset == "cifar10" else "fine_labels"
        files[name] = pickle.dumps({"data": pixels(count, 3 * 32 * 32, seed=number), key: labels})
    meta = published.meta
    files[meta["filename"]] = pickle.dumps({meta["key"]: [f"class {label}" for label in range(CLASSES)]})
    archive = folder / published.filename
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{published.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for attribute in ("train_list", "test_list"):
        listed = [[name, md5(files[name])] for name, _ in getattr(published, attribute)]
        monkeypatch.setattr(published, attribute, listed)
    monkeypatch.setattr(published, "meta", {**meta, "md5": md5(files[meta["filename"]])})
    monkeypatch.setattr(published, "tgz_md5", md5(archive.read_bytes()))
    return archive


def write_mnist(folder: Path, dataset: str, monkeypatch) -> Path:
    """The four archives of a tiny MNIST; returns their folder."""
    published = MNISTS[dataset]
    raw = folder / published.__name__ / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    resources = []
    for name, _ in published.resources:
        count = TRAIN if name.startswith("train") else TEST
        if "images" in name:
            content = struct.pack(">4i", 0x803, count, 28, 28) + pixels(count, 28, 28).tobytes()
        else:
            content = struct.pack(">2i", 0x801, count) + bytes(index % CLASSES for index in range(count))
        (raw / name).write_bytes(gzip.compress(content))
        resources.append((name, md5((raw / name).read_bytes())))
    monkeypatch.setattr(published, "resources", resources)
    return raw


def write(folder: Path, dataset: str, monkeypatch) -> list[Path]:
    """Returns the archives."""
    if dataset in CIFARS:
        return [write_cifar(folder, dataset, monkeypatch)]
    return sorted(write_mnist(folder, dataset, monkeypatch).iterdir())


def load(dataset: str, folder: Path, **options):
    return load_full_task(dataset, folder, seed=0, **options)


def complaint(dataset: str, folder: Path, **options) -> str:
    with pytest.raises(InputError) as refusal:
        load(dataset, folder, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("dataset", "shape", "train", "mean", "padding", "flip"),
    [
        ("cifar10", (3, 32, 32), 5 * TRAIN, (0.4914, 0.4822, 0.4465), 4, True),
        ("cifar100", (3, 32, 32), TRAIN, (0.5071, 0.4865, 0.4409), 4, True),
        ("mnist", (1, 28, 28), TRAIN, (0.1307,), 2, False),
        ("fashionmnist", (1, 28, 28), TRAIN, (0.2860,), 3, True),
    ],
)
def test_a_manual_download_is_unpacked_and_read(dataset, shape, train, mean, padding, flip, tmp_path, monkeypatch):
    write(tmp_path, dataset, monkeypatch)
    task = load(dataset, tmp_path)
    assert (task.name, task.shape, task.mean, task.notes) == (dataset, shape, mean, ())
    assert task.train.labels == tuple(index % CLASSES for index in range(TRAIN)) * (train // TRAIN)
    assert task.test.labels == tuple(index % CLASSES for index in range(TEST))
    assert task.classes[:CLASSES] == (
        tuple(f"class {label}" for label in range(CLASSES))
        if dataset in CIFARS
        else tuple(MNISTS[dataset].classes[:CLASSES])
    )
    assert (task.train.augmentation.padding, task.train.augmentation.flip) == (padding, flip)

    ((images, labels),) = image_batches(task.train, range(3), 3)
    raw = pixels(TRAIN, *(shape if dataset in CIFARS else (28, 28)))[:3].reshape(3, *shape)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (task.mean, task.std))
    assert torch.allclose(images * std + mean, torch.from_numpy(raw) / 255, atol=1e-6)
    assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dataset", ["cifar10", "mnist"])
def test_the_archives_are_not_needed_any_more(dataset, tmp_path, monkeypatch):
    archives = write(tmp_path, dataset, monkeypatch)
    before = load(dataset, tmp_path)
    for archive in archives:
        archive.unlink()
    assert load(dataset, tmp_path).train.labels == before.train.labels


def test_resized(tmp_path, monkeypatch):
    write(tmp_path, "mnist", monkeypatch)
    task = load("mnist", tmp_path, input_size=14)
    ((images, _),) = image_batches(task.test, range(TEST), TEST)
    assert task.shape == (1, 14, 14)
    assert images.shape == (TEST, *task.shape)


# --- Refusals, mending, downloads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "place"),
    [
        ("cifar10", "put https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz into {folder}."),
        ("fashionmnist", "t10k-labels-idx1-ubyte.gz into {folder}/FashionMNIST/raw."),
    ],
)
def test_an_absent_set(dataset, place, tmp_path):
    text = complaint(dataset, tmp_path / "nothing")
    assert text.startswith(f"--data_path {tmp_path / 'nothing'} holds no {dataset}: pass --download, or put http")
    assert text.endswith(place.format(folder=tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("dataset", ["cifar100", "mnist"])
def test_an_archive_cut_short(dataset, tmp_path, monkeypatch):
    archive = write(tmp_path, dataset, monkeypatch)[-1]
    cut_in_half(archive)
    before = sorted(tmp_path.rglob("*"))
    assert complaint(dataset, tmp_path).startswith(f"{archive} is cut short or corrupt, its checksum is wrong: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        ("cifar10", ["data_batch_3", "batches.meta"]),
        ("mnist", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]),
    ],
)
@pytest.mark.parametrize("left", [0, 3, 11])
def test_an_unpacked_file_cut_short_is_mended_by_its_archive(dataset, names, left, tmp_path, monkeypatch):
    """As one is that a killed run was unpacking."""
    archives = write(tmp_path, dataset, monkeypatch)
    expected = load(dataset, tmp_path).train.labels
    for name in names:
        (file,) = tmp_path.rglob(name)
        file.write_bytes(file.read_bytes()[:left])
        for archive in archives:
            archive.rename(tmp_path / archive.name.upper())
        assert complaint(dataset, tmp_path).startswith(f"{file.parent} is not whole: a file is absent, cut short or ")
        for archive in archives:
            (tmp_path / archive.name.upper()).rename(archive)
        assert load(dataset, tmp_path).train.labels == expected


def test_what_the_system_says_is_said(tmp_path, monkeypatch):
    write(tmp_path, "mnist", monkeypatch)
    load("mnist", tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(MNIST, "__init__", refuse)
    assert complaint("mnist", tmp_path) == f"cannot read mnist in {tmp_path}: [Errno 13] Permission denied."


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def website(tmp_path) -> Iterator[str]:
    """The address of a server of the files in ``published``."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=tmp_path / "published")) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("dataset", ["cifar10", "mnist"])
def test_a_download_fetches_what_is_absent_or_damaged(dataset, website, tmp_path, monkeypatch):
    published, here = tmp_path / "published", tmp_path / "here"
    archives = write(published, dataset, monkeypatch)
    monkeypatch.setattr(CIFAR10, "url", f"{website}/{CIFAR10.filename}")
    monkeypatch.setattr(MNIST, "mirrors", [f"{website}/nowhere/", f"{website}/MNIST/raw/"])
    damaged = here / archives[0].relative_to(published)
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half of it")
    with ThreadPoolExecutor(3) as pool:  # a lock is as good between threads as between processes
        tasks = list(pool.map(lambda _: load(dataset, here, download=True), range(3)))
    assert [len(task.test) for task in tasks] == [TEST] * 3
    for archive in archives:
        assert (here / archive.relative_to(published)).read_bytes() == archive.read_bytes()
        archive.unlink()
    load(dataset, here, download=True)  # once is enough


def test_a_failed_download_says_how_to_do_it_by_hand(website, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", f"{website}/nowhere/{CIFAR10.filename}")
    (tmp_path / "published").mkdir()
    assert complaint("cifar10", tmp_path, download=True) == (
        f"--download of cifar10 failed (HTTP Error 404: File not found): put {CIFAR10.url} into {tmp_path}."
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
