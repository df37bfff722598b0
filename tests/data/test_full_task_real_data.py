"""The full task on real photographs: a part of CIFAR-10 as a folder of JPEGs.

ONNAS_DATA names the folder that holds ``cifar10/`` (``train.tar`` and ``test.tar``, ``<split>/<class>/<file>.jpg``).
"""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils.data.full_task_data import NORMALISATION, FullTask, load_full_task, stratified_halves
from utils.data.image_batches import image_batches

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGES = {"train": 100, "test": 20}  # of each class


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The first images of each class, unpacked."""
    if "ONNAS_DATA" not in os.environ:
        pytest.skip("needs the real data: ONNAS_DATA must name the folder with the cifar10 archives")
    source = Path(os.environ["ONNAS_DATA"]) / "cifar10"
    if not source.is_dir():
        pytest.skip(f"needs the real data: ONNAS_DATA={source.parent} holds no folder cifar10")
    folder = tmp_path_factory.mktemp("cifar10")
    for split, count in IMAGES.items():
        with tarfile.open(source / f"{split}.tar") as archive:
            taken = dict.fromkeys(CLASSES, 0)
            for member in archive:
                name = Path(member.name).parent.name
                if member.isfile() and taken[name] < count:
                    taken[name] += 1
                    # Not extract(): only a newer 3.11 knows its filter, which a newer 3.12 wants to be named.
                    (folder / member.name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / member.name).write_bytes(archive.extractfile(member).read())
    return folder


@pytest.fixture(scope="module")
def task(folder) -> FullTask:
    return load_full_task("imagefolder", folder, seed=21)


def test_the_task(task):
    assert task.classes == CLASSES
    assert task.shape == (3, 32, 32)
    assert task.notes == ()
    for part, count in ((task.train, IMAGES["train"]), (task.test, IMAGES["test"])):
        assert np.bincount(part.labels).tolist() == [count] * len(CLASSES)


def test_the_normalisation_is_close_to_the_published_one(task):
    mean, std = NORMALISATION["cifar10"]
    assert task.mean == pytest.approx(mean, abs=0.02)
    assert task.std == pytest.approx(std, abs=0.02)


def test_the_first_image(task, folder):
    ((images, labels),) = image_batches(task.test, [0], 1)
    file = min((folder / "test" / "airplane").iterdir())
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (task.mean, task.std))
    assert torch.allclose(images[0] * std + mean, expected, atol=1e-6)
    assert labels.tolist() == [0]


def test_both_halves_in_batches(task):
    halves = stratified_halves(task.train.labels, seed=21)
    seen = []
    for purpose, half in zip(("weights", "architecture"), halves, strict=True):
        runs = [
            list(image_batches(task.train, half, 64, epoch_order=(21, purpose, 0), augment=True, workers=workers))
            for workers in (0, 2)
        ]
        for here, elsewhere in zip(*runs, strict=True):
            assert torch.equal(here[0], elsewhere[0])
            assert torch.equal(here[1], elsewhere[1])
        labels = torch.cat([labels for _, labels in runs[0]])
        assert torch.bincount(labels).tolist() == [IMAGES["train"] // 2] * len(CLASSES)
        images = torch.cat([images for images, _ in runs[0]])
        assert images.shape == (len(half), *task.shape)
        assert images.mean().abs() < 0.3  # black borders and all
        assert 0.8 < images.std() < 1.2
        seen += half
    assert sorted(seen) == list(range(len(task.train)))


def test_a_fifth_is_held_out_without_the_test_folder(folder, tmp_path):
    (tmp_path / "train").symlink_to(folder / "train")
    task = load_full_task("imagefolder", tmp_path, seed=21, input_size=16)
    assert task.shape == (3, 16, 16)
    assert np.bincount(task.test.labels).tolist() == [20] * len(CLASSES)
    assert task.notes == (
        "no test/ folder: a fifth of train/, 20 of 100 images of each class, is held out for testing.",
    )
