"""The real Omniglot and miniImageNet, prepared from the authors' archives and drawn from.

ONNAS_DATA names the folder that holds ``omniglot/`` (two zips) and ``miniimagenet/`` (three tars).
"""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from tests.sources import draw
from tests.test_tfml import assert_same_run
from tests.torchmeta_tasks import classes_of, through_torchmeta
from torchmeta_loader import episodes, few_shot_tasks
from utils.data.class_images import ClassImages
from utils.data.prepare import prepare

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def sources() -> Path:
    if "ONNAS_DATA" not in os.environ:
        pytest.skip("needs the real data: ONNAS_DATA must name the folder with the omniglot and miniimagenet archives")
    return Path(os.environ["ONNAS_DATA"])


def source_of(sources: Path, dataset: str) -> Path:
    if not (sources / dataset).is_dir():
        pytest.skip(f"needs the real data: ONNAS_DATA={sources} holds no folder {dataset}")
    return sources / dataset


@pytest.fixture(scope="module")
def omniglot(sources, tmp_path_factory) -> Path:
    """A data folder with the prepared Omniglot."""
    folder = tmp_path_factory.mktemp("real_omniglot")
    prepare("omniglot", source_of(sources, "omniglot"), folder)
    return folder


@pytest.fixture(scope="module")
def miniimagenet(sources, tmp_path_factory) -> Path:
    """A data folder with the prepared miniImageNet."""
    folder = tmp_path_factory.mktemp("real_miniimagenet")
    prepare("miniimagenet", source_of(sources, "miniimagenet"), folder)
    return folder


def labels(folder: Path, name: str) -> list:
    return json.loads((folder / f"{name}_labels.json").read_text())


def test_omniglot_has_its_characters(omniglot):
    folder = omniglot / "omniglot"
    assert [len(labels(folder, name)) for name in ("train", "test")] == [964, 659]
    vinyals = [{tuple(label) for label in labels(folder, f"vinyals_{split}")} for split in SPLITS]
    assert [len(characters) for characters in vinyals] == [1028, 172, 423]
    assert len(set.union(*vinyals)) == 1623
    assert set.union(*vinyals) == {tuple(label) for name in ("train", "test") for label in labels(folder, name)}
    with h5py.File(folder / "data.hdf5") as file:
        assert all(file["/".join(character)].shape == (20, 105, 105) for character in set.union(*vinyals))


def test_omniglot_drawings_are_the_authors_inverted(omniglot, sources):
    with (
        zipfile.ZipFile(sources / "omniglot" / "images_evaluation.zip") as archive,
        h5py.File(omniglot / "omniglot" / "data.hdf5") as file,
    ):
        for drawing in (1, 20):
            png = archive.read(f"images_evaluation/Angelic/character01/0965_{drawing:02}.png")
            image = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
            stored = file["images_evaluation/Angelic/character01"][drawing - 1]
            assert np.array_equal(stored, 255 - image)
            assert stored.mean() < 64  # white strokes on black


def test_miniimagenet_has_its_classes(miniimagenet, sources):
    classes = [labels(miniimagenet / "miniimagenet", split) for split in SPLITS]
    assert [len(names) for names in classes] == [64, 16, 20]
    assert len({name for names in classes for name in names}) == 100
    for split, names in zip(SPLITS, classes, strict=True):
        with (
            h5py.File(miniimagenet / "miniimagenet" / f"{split}_data.hdf5") as file,
            tarfile.open(sources / "miniimagenet" / f"{split}.tar") as archive,
        ):
            assert {file["datasets"][name].shape for name in names} == {(100, 84, 84, 3)}
            first = min(member.name for member in archive if member.name.startswith(f"{split}/{names[0]}/"))
            image = np.asarray(Image.open(archive.extractfile(first)).convert("RGB"))
            assert np.array_equal(file["datasets"][names[0]][0], image)


@pytest.mark.parametrize("dataset", ["omniglot", "miniimagenet"])
def test_episodes_of_the_real_data_are_those_of_torchmeta_bit_for_bit(dataset, request):
    data_path = request.getfixturevalue(dataset)
    for split, shots, queries in (("train", 15, 1), ("val", 5, 15), ("test", 5, 15)):
        tasks = few_shot_tasks(dataset, split, ways=5, shots=shots, queries=queries, seed=21, data_path=data_path)
        assert isinstance(tasks.source.images, ClassImages)
        assert draw(tasks, range(5)) == through_torchmeta(tasks, range(5), classes_of(dataset, split, data_path))


def test_training_on_omniglot_is_the_same_on_two_ranks(scripts, omniglot, tmp_path):
    flags = (
        "--dataset",
        "omniglot",
        "--data_path",
        omniglot,
        "--meta_epochs",
        5,
        "--meta_batch_size",
        3,
        "--tasks_at_once",
        2,
    )
    scripts.tfml(tmp_path / "one", *flags).succeeded()
    pids = scripts.start_ranks(2, "tfml.py", *scripts.tfml_flags(tmp_path / "two", *flags))
    for finished in scripts.wait_for_each(*pids):
        finished.succeeded()
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("dataset", ["omniglot", "miniimagenet"])
@pytest.mark.parametrize("workers", [0, 2])
def test_episodes_of_the_real_data(dataset, workers, request):
    data_path = request.getfixturevalue(dataset)
    for split in SPLITS:
        tasks = few_shot_tasks(dataset, split, ways=5, shots=1, queries=15, seed=21, data_path=data_path)
        images_seen = 0
        for episode in episodes(tasks, range(20), workers):
            images_seen += len(episode.support) + len(episode.query)
            assert episode.query.dtype == torch.uint8
            assert episode.query.min() < episode.query.max()
        assert images_seen == 20 * 5 * 16
