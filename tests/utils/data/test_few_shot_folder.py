"""A folder of images as few-shot tasks."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.torchmeta_tasks import through_torchmeta
from torchmeta_loader import content_digest, episodes, few_shot_tasks
from utils.errors import InputError

SIDE = 12
SPLITS = ("train", "val", "test")


def write_class(folder: Path, count: int, identity: int = 0, mode: str = "RGB", side: int = SIDE) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng((identity, number)).integers(0, 256, (side, side, 3)).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number}.png")


@pytest.fixture
def split_folders(tmp_path) -> Path:
    """Three splits of four classes each, of 5 to 8 images."""
    for number in range(12):
        write_class(tmp_path / "data" / SPLITS[number % 3] / f"class{number:02}", 5 + number % 4, number)
    return tmp_path / "data"


@pytest.fixture
def class_folders(tmp_path) -> Path:
    """25 classes in one folder."""
    for number in range(25):
        write_class(tmp_path / "data" / f"class{number:02}", 3, number, mode="L")
    return tmp_path / "data"


def make(folder: Path, split: str = "train", **changes):
    settings = {"ways": 3, "shots": 2, "queries": 3, "seed": 21, "data_path": folder, **changes}
    return few_shot_tasks("imagefolder", split, **settings)


def draw(tasks, workers: int = 0) -> list[bytes]:
    return [
        tensor.numpy().tobytes()
        for episode in episodes(tasks, range(4), workers)
        for tensor in (episode.support / 255, episode.support_labels, episode.query / 255, episode.query_labels)
    ]


def complaint(folder: Path, *arguments, **changes) -> str:
    with pytest.raises(InputError) as refusal:
        make(folder, *arguments, **changes)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("split", SPLITS)
def test_episodes_are_of_the_files_of_their_classes(split, split_folders):
    tasks = make(split_folders, split)
    assert tasks.shape == (3, SIDE, SIDE)
    assert (tasks.size.split, tasks.size.classes) == (split, 4)
    assert tasks.notes == ()
    seen = Counter()
    for episode in episodes(tasks, range(30)):
        parts = ((episode.support, episode.support_labels, 2), (episode.query, episode.query_labels, 3))
        drawn = set()
        for images, labels, images_a_class in parts:
            assert labels.tolist() == [label for label in range(3) for _ in range(images_a_class)]
            for image, label in zip(images, labels, strict=True):
                name = episode.class_names[label]
                found = [
                    path
                    for path in (split_folders / split / name).iterdir()
                    if torch.equal(torch.tensor(np.asarray(Image.open(path))).permute(2, 0, 1), image)
                ]
                assert len(found) == 1
                drawn.add(found[0])
        assert len(drawn) == 3 * 5  # support and query share none
        seen.update(drawn)
    assert set(seen) == set((split_folders / split).glob("*/*"))  # sooner or later, every one is drawn


def test_episodes_are_drawn_as_by_torchmeta(split_folders):
    tasks = make(split_folders)
    expected = [tensor for episode in through_torchmeta(tasks, range(4)) for tensor in episode]
    assert draw(tasks) == draw(tasks, workers=1) == expected


def test_the_seed_splits_classes_that_lie_in_one_folder(class_folders):
    names = {split: make(class_folders, split, shots=1, queries=1).content[0] for split in SPLITS}
    assert [len(names[split]) for split in SPLITS] == [16, 4, 5]
    assert sorted(name for part in names.values() for name in part) == [f"class{number:02}" for number in range(25)]
    tasks = make(class_folders, "val", shots=1, queries=1)
    assert tasks.shape == (1, SIDE, SIDE)
    assert tasks.notes == (
        f"{class_folders} has no train/, val/ and test/: seed 21 splits its 25 classes into 16 train, 4 val, 5 test.",
    )
    assert make(class_folders, "val", shots=1, queries=1).content[0] == names["val"]
    assert make(class_folders, "val", shots=1, queries=1, seed=5).content[0] != names["val"]


def test_size_and_channels_of_a_meta_cell(split_folders):
    tasks = make(split_folders, input_size=8, channels=1)
    assert tasks.shape == (1, 8, 8)
    assert tasks.notes == ("78 of 78 images have colours: they are made grey.",)
    (episode,) = episodes(tasks, [3])
    name = episode.class_names[0]
    expected = [
        np.asarray(Image.open(path).convert("L").resize((8, 8), Image.Resampling.BILINEAR))
        for path in (split_folders / "train" / name).iterdir()
    ]
    assert any(torch.equal(torch.tensor(image)[None], episode.support[0]) for image in expected)
    write_class(split_folders / "train/large", 5, side=20)
    assert "give --input_size" in complaint(split_folders)


def test_images_are_decoded_once_and_changed_ones_anew(split_folders, tmp_path):
    before, digest = draw(make(split_folders)), content_digest(make(split_folders))
    moved = shutil.copytree(split_folders, tmp_path / "moved")
    shutil.rmtree(moved / ".cache")
    assert content_digest(make(moved)) == digest
    cached = split_folders / ".cache" / f"train_3x{SIDE}x{SIDE}.npy"
    written = cached.stat().st_mtime_ns
    assert draw(make(split_folders)) == before
    assert cached.stat().st_mtime_ns == written
    for path in (split_folders / "train").glob("*/*"):
        image = Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image.save(path)
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    assert draw(make(split_folders)) != before
    assert content_digest(make(split_folders)) != digest


def test_a_folder_that_cannot_be_written(split_folders):
    expected, digest = draw(make(split_folders)), content_digest(make(split_folders))
    shutil.rmtree(split_folders / ".cache")
    (split_folders / ".cache").write_text("in the way")
    tasks = make(split_folders)
    assert tasks.notes[0].endswith(f"the images of train_3x{SIDE}x{SIDE} are decoded anew for every task.")
    assert draw(tasks) == expected
    assert content_digest(tasks) == digest
    for path in (split_folders / "train").glob("*/*"):
        path.unlink()
    with pytest.raises(InputError, match=r"^cannot read .*: No such file or directory\.$"):
        list(episodes(tasks, range(2), workers=1))


def test_refusals(split_folders, tmp_path):
    assert complaint(split_folders, queries=4) == (
        "2 shots and 4 queries a class are too many: the class class00 of imagefolder has 5 images, so --q and the "
        "shots (--n_train in training, --k in testing) may add up to 5."
    )
    assert complaint(split_folders, ways=5) == "--n 5 is too many: the train split of imagefolder has 4 classes."
    write_class(split_folders / "val/class00", 5)
    assert complaint(split_folders).startswith(
        f"the class class00 is in {split_folders}/train and in {split_folders}/val: few-shot splits share no class"
    )
    shutil.rmtree(split_folders / "val")
    assert complaint(split_folders, "val").startswith(f"--data_path {split_folders} has no classes for val: ")
    (split_folders / "test/class02/0.png").write_bytes(b"no image")
    assert complaint(split_folders).startswith(f"{split_folders}/test/class02/0.png is no whole image of PNG, ")
    assert complaint(tmp_path / "gone") == f"cannot read {tmp_path}/gone: No such file or directory."
