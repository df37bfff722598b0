"""The file of decoded images: what is read from it, when it is written anew, and what may go wrong."""

import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import ToTensor

from tests.conftest import fill
from utils.data.class_images import ClassImages, open_class_images
from utils.data.pixels import unit_range
from utils.errors import InputError, WriteError

COUNTS, SHAPE = (3, 1, 4), (3, 5, 6)
SOURCE = {"data.hdf5": [123, 456]}


def pixels_of(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (COUNTS[index], *SHAPE), np.uint8)


def counting(calls: list[int]):
    def decode(index: int) -> np.ndarray:
        calls.append(index)
        return pixels_of(index)

    return decode


def refuse(index: int) -> np.ndarray:
    raise AssertionError("decoded although the file was there")


def open_(path: Path, decode=refuse, **changes) -> ClassImages:
    return open_class_images(path, **{"source": SOURCE, "counts": COUNTS, "shape": SHAPE, "decode": decode, **changes})


@pytest.fixture
def path(tmp_path) -> Path:
    """The path of a file that is there."""
    path = tmp_path / "cache/train.npy"
    open_(path, pixels_of)
    return path


def assert_right(images: ClassImages) -> None:
    """Every image, as torchvision's ToTensor makes it of a PIL image."""
    places = [(index, number) for index, count in enumerate(COUNTS) for number in range(count)]
    places.reverse()
    read = images.read(*zip(*places, strict=True))
    assert read.dtype == torch.uint8
    for image, (index, number) in zip(read, places, strict=True):
        as_pil = Image.fromarray(pixels_of(index)[number].transpose(1, 2, 0))
        assert torch.equal(image / 255, ToTensor()(as_pil))


def test_images_are_those_of_to_tensor(path):
    assert_right(open_(path))


def test_every_grey_level_is_exact(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    images = open_(tmp_path / "x.npy", lambda index: levels, counts=(1,), shape=(1, 16, 16))
    assert torch.equal(unit_range(images.read([0], [0])[0]), ToTensor()(Image.fromarray(levels[0, 0])))


def test_classes_are_decoded_once(tmp_path):
    calls = []
    for _ in range(2):
        open_(tmp_path / "x.npy", counting(calls))
    assert calls == [0, 1, 2]


def test_numpy_reads_the_file_and_nothing_else_is_left(path):
    expected = np.concatenate([pixels_of(index) for index in range(len(COUNTS))])
    assert np.array_equal(np.load(path), expected)
    assert {file.suffix for file in path.parent.iterdir()} == {".npy", ".json", ".lock"}


def test_images_that_were_read_are_not_those_of_the_file(path):
    images = open_(path)
    images.read([0], [0]).zero_()
    assert_right(images)


def test_another_process_maps_the_file_itself(path):
    data = pickle.dumps(open_(path))
    assert len(data) < 1000
    assert_right(pickle.loads(data))


DAMAGE = {
    "no file": lambda path: path.unlink(),
    "no description": lambda path: path.with_suffix(".json").unlink(),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("images"),
    "an archive": lambda path: np.savez(path.open("wb"), images=np.zeros(3)),
    "objects": lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
    "other numbers": lambda path: np.save(path, np.zeros((8, *SHAPE), np.float32)),
    "other images": lambda path: np.save(path, np.zeros((7, *SHAPE), np.uint8)),
    "description cut short": lambda path: path.with_suffix(".json").write_text('{"format"'),
    "description of a list": lambda path: path.with_suffix(".json").write_text("[]"),
    "other format": lambda path: path.with_suffix(".json").write_text(
        json.dumps({**json.loads(path.with_suffix(".json").read_text()), "format": 0})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_or_foreign_file_is_written_anew(path, damage):
    DAMAGE[damage](path)
    assert_right(open_(path, pixels_of))
    assert_right(open_(path))


def test_stale_file_is_written_anew(path):
    calls = []
    open_(path, counting(calls), source={"data.hdf5": [123, 457]})
    open_(path, counting(calls), source={"data.hdf5": [123, 457]})
    assert calls == [0, 1, 2]


def test_mistake_in_decoding_leaves_the_old_file(path):
    before = path.read_bytes()

    def decode(index):
        if index == 2:
            raise InputError("the data are corrupt.")
        return pixels_of(index)

    with pytest.raises(InputError, match="corrupt"):
        open_(path, decode, source={"data.hdf5": [0, 0]})
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="another size"):
        open_(path, lambda index: pixels_of(index)[:, :2], source={"data.hdf5": [0, 0]})
    assert not list(path.parent.glob("*.tmp"))


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WriteError, match="cannot write"):
        open_(tmp_path / "file/cache/x.npy")


def test_full_disk(tiny_disk):
    fill(tiny_disk)
    with pytest.raises(WriteError, match="No space left"):
        open_(tiny_disk / "x.npy", lambda index: np.zeros((2000, *SHAPE), np.uint8), counts=(2000,))
    assert not list(tiny_disk.glob("*.tmp"))


def test_two_processes_at_once_decode_once(tmp_path):
    path, context = tmp_path / "x.npy", multiprocessing.get_context("fork")
    log = tmp_path / "log"

    def decode(index):
        with log.open("a") as file:
            file.write(f"{index}\n")
        time.sleep(0.05)
        return pixels_of(index)

    children = [context.Process(target=open_, args=(path, decode)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert log.read_text().split() == ["0", "1", "2"]
    assert_right(open_(path))


def test_next_process_takes_over_from_one_that_was_killed(tmp_path):
    path, context = tmp_path / "x.npy", multiprocessing.get_context("fork")

    def decode_and_die(index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return pixels_of(index)

    child = context.Process(target=open_, args=(path, decode_and_die))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    taken_over = []
    thread = threading.Thread(target=lambda: taken_over.append(open_(path, pixels_of)))
    thread.start()
    thread.join(10)
    assert_right(taken_over[0])
