"""Folders of invented images as full tasks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils.data.full_task_data import load_full_task, warning_of_few_images
from utils.data.image_batches import image_batches
from utils.data.image_folder import channel_statistics
from utils.data.image_reader import Preparation, read_image
from utils.errors import InputError

SIDE = 12


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (SIDE, SIDE), mode: str = "RGB") -> Path:
    """An image of noise; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = () if mode == "L" else (3,)
    Image.fromarray(noise(seed, size[1], size[0], *channels)).save(path)
    return path


def write_folder(folder: Path, counts: dict[str, int], mode: str = "RGB", size=(SIDE, SIDE), suffix=".png") -> Path:
    """``counts``: "train/cat" -> number of its images."""
    seed = 0
    for name, count in counts.items():
        for number in range(count):
            seed += 1
            write_image(folder / name / f"{number:03}{suffix}", seed, size, mode)
    return folder


def load(folder: Path, **options):
    return load_full_task("imagefolder", folder, **{"seed": 0, **options})


def complaint(folder: Path, **options) -> str:
    with pytest.raises(InputError) as refusal:
        load(folder, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.fixture
def two_classes(tmp_path) -> Path:
    return write_folder(tmp_path, {"train/cat": 4, "train/dog": 3, "test/cat": 2, "test/dog": 1})


# --- What is read ---------------------------------------------------------------------------------------------------


def test_a_folder_with_a_test_set(two_classes, capfd):
    task = load(two_classes)
    assert (task.name, task.classes, task.shape, task.notes) == ("imagefolder", ("cat", "dog"), (3, SIDE, SIDE), ())
    assert task.train.labels == (0, 0, 0, 0, 1, 1, 1)
    assert task.test.labels == (0, 0, 1)
    assert len(task.train) == 7
    assert (task.train.augmentation.padding, task.train.augmentation.flip) == (1, True)
    ((images, _),) = image_batches(task.test, range(3), 3)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (task.mean, task.std))
    for seed, image in zip((8, 9, 10), images, strict=True):
        expected = torch.from_numpy(noise(seed, SIDE, SIDE, 3)).permute(2, 0, 1) / 255
        assert torch.allclose(image * std + mean, expected, atol=1e-6)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_normalisation_is_that_of_the_training_images(mode, tmp_path):
    folder = write_folder(tmp_path, {"train/cat": 3, "train/dog": 2, "test/cat": 4}, mode)
    values: list[list[float]] = [[] for _ in range(3 if mode == "RGB" else 1)]
    for seed in range(1, 6):
        for row in noise(seed, SIDE, SIDE, len(values)):
            for pixel in row:
                for channel, value in enumerate(pixel):
                    values[channel].append(int(value) / 255)
    task = load(folder)
    for channel, numbers in enumerate(values):
        mean = sum(numbers) / len(numbers)
        variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
        assert task.mean[channel] == pytest.approx(mean, rel=1e-12)
        assert task.std[channel] == pytest.approx(variance**0.5, rel=1e-12)


def test_a_channel_of_one_value_is_not_divided_by_zero():
    image = np.zeros((3, 8, 8), np.uint8)
    image[1], image[2, 0] = 77, 255
    mean, std = channel_statistics([image, image])
    assert mean == pytest.approx((0, 77 / 255, 1 / 8))
    assert std == pytest.approx((1, 1, (1 / 8 * 7 / 8) ** 0.5))


def test_a_fifth_is_held_out_where_there_is_no_test_set(tmp_path):
    folder = write_folder(tmp_path, {"train/cat": 11, "train/dog": 5})
    task = load(folder)
    train, test = (list(part.pixels.paths) for part in (task.train, task.test))
    assert sorted(train + test) == sorted(folder.glob("train/*/*"))
    assert [path.parent.name for path in test] == ["cat", "cat", "dog"]
    for part in (task.train, task.test):
        assert [task.classes[label] for label in part.labels] == [path.parent.name for path in part.pixels.paths]
    assert task.notes == ("no test/ folder: a fifth of train/, 3 of 16 images, is held out for testing.",)
    assert load(folder).test.pixels.paths == task.test.pixels.paths
    assert len({load(folder, seed=seed).test.pixels.paths for seed in range(5)}) > 1


def test_the_note_for_classes_of_one_size(tmp_path):
    task = load(write_folder(tmp_path, {"train/cat": 10, "train/dog": 10}))
    assert task.notes == ("no test/ folder: a fifth of train/, 2 of 10 images of each class, is held out for testing.",)


def test_a_test_set_may_lack_a_class(tmp_path):
    task = load(write_folder(tmp_path, {"train/cat": 2, "train/cow": 2, "train/dog": 2, "test/dog": 1}))
    assert task.test.labels == (2,)
    assert task.notes == ("test/ lacks 2 of 3 classes: cat, cow.",)


def test_grey_only_if_all_images_are(tmp_path):
    folder = write_folder(tmp_path, {"train/cat": 2, "train/dog": 2, "test/cat": 1}, "L")
    Image.fromarray(noise(0, SIDE, SIDE) > 127).save(folder / "train/cat/bilevel.png")
    Image.fromarray(noise(0, SIDE, SIDE).astype(np.uint16) * 257).save(folder / "train/cat/sixteen.png")
    Image.fromarray(noise(0, SIDE, SIDE, 2), "LA").save(folder / "train/dog/alpha.png")
    task = load(folder)
    assert task.shape == (1, SIDE, SIDE)
    ((images, _),) = image_batches(task.train, range(len(task.train)), 99)
    assert images.shape == (7, 1, SIDE, SIDE)

    write_image(folder / "test/dog/colour.png")
    task = load(folder)
    assert task.shape == (3, SIDE, SIDE)
    assert len(task.mean) == len(task.std) == 3
    assert all(len(read_image(path, Preparation(3, SIDE))) == 3 for path in task.train.pixels.paths)


def test_resized_and_stretched(tmp_path):
    folder = write_folder(tmp_path, {"train/cat": 2, "train/dog": 2}, size=(30, 20))
    write_folder(folder, {"test/cat": 2, "test/dog": 1}, size=(16, 16))
    task = load(folder, input_size=10)
    assert task.shape == (3, 10, 10)
    assert task.notes == ("4 of 7 images are not square: they are stretched to 10x10.",)
    ((images, _),) = image_batches(task.train, range(4), 4)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (task.mean, task.std))
    expected = Image.fromarray(noise(1, 20, 30, 3)).resize((10, 10), Image.Resampling.BILINEAR)
    assert torch.allclose(
        images[0] * std + mean, torch.from_numpy(np.array(expected)).permute(2, 0, 1) / 255, atol=1e-6
    )


def test_the_depth_of_the_whole_set_counts(tmp_path):
    """By itself, each of these is black; the brightest may be in the test set."""
    folder = write_folder(tmp_path, {"train/cat": 2, "train/dog": 2}, "L")
    for number, name in enumerate(("train/cat/000.png", "train/dog/001.png", "test/dog/0.png"), start=1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((SIDE, SIDE), 300 * number, np.uint16)).save(folder / name)
    task = load(folder)
    assert task.notes == (
        "test/ lacks 1 of 2 classes: cat.",
        "3 images have pixels of 16 bits, none above 900: 1023 is taken for white.",
    )
    assert [(task.train.pixels[index][0, 0, 0], task.test.pixels[0][0, 0, 0]) for index in (0, 3)] == [
        (300 // 4, 900 // 4),
        (600 // 4, 900 // 4),
    ]
    Image.fromarray(np.full((SIDE, SIDE), 2**16 - 1, np.uint16)).save(folder / "test/dog/0.png")
    assert load(folder).notes == ("test/ lacks 1 of 2 classes: cat.",)


def test_few_images_are_said(tmp_path):
    folder = write_folder(tmp_path, {"train/cat": 50, "train/dog": 49}, size=(8, 8))
    write_folder(folder, {"test/cat": 1}, size=(8, 8))
    text = warning_of_few_images(load(folder), folder)
    assert text.startswith("The class dog has 49 training images, fewer than 50: ")
    assert text.endswith(f"python onnas.py --meta_cell FILE --support {folder / 'train'}.")
    write_image(folder / "train/dog/more.png", size=(8, 8))
    assert warning_of_few_images(load(folder), folder) is None


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_no_train_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        text = f"--data_path {folder} holds no train/ folder: images lie in {folder}/train/<class>/."
        assert complaint(folder) == text


def test_one_class_only(tmp_path):
    write_folder(tmp_path, {"train/cat": 9})
    assert complaint(tmp_path) == f"{tmp_path}/train holds only one class, cat: there must be two at least."


def test_a_test_class_that_is_not_trained(two_classes):
    write_image(two_classes / "test/yak/0.png")
    assert complaint(two_classes) == f"{two_classes}/test/yak is a class that {two_classes}/train does not have."


def test_too_few_images_of_a_class(tmp_path):
    write_folder(tmp_path, {"train/cat": 5, "train/dog": 4})
    assert complaint(tmp_path) == (
        f"{tmp_path}/train/dog holds 4 images: a class needs 5, as without a test/ folder a fifth of them is held out."
    )
    write_folder(tmp_path, {"test/cat": 1, "train/yak": 1})
    assert complaint(tmp_path) == (
        f"{tmp_path}/train/yak holds 1 image: a class needs 2, one for each half of the training set."
    )


def test_an_input_size_too_small(two_classes):
    assert complaint(two_classes, input_size=7) == "--input_size 7 is too small: 8 pixels is the least."


def test_images_of_several_sizes_need_one(two_classes):
    first, other = two_classes / "train/cat/000.png", write_image(two_classes / "train/dog/0.png", size=(12, 13))
    assert complaint(two_classes) == (
        f"the images are not all square and of one size ({first} is 12x12 and {other} is 12x13): give "
        f"--input_size, the side in pixels that they are resized to."
    )
    for image in two_classes.glob("train/*/*"):
        write_image(image, size=(13, 12))
    assert f"of one size ({first} is 13x12): give --input_size" in complaint(two_classes)


def test_test_images_of_another_size_need_one_too(two_classes):
    """They would be tested at another scale than was trained, and nobody would know."""
    first, other = two_classes / "train/cat/000.png", write_image(two_classes / "test/dog/0.png", size=(20, 20))
    assert f"({first} is 12x12 and {other} is 20x20): give --input_size" in complaint(two_classes)
    assert load(two_classes, input_size=SIDE).shape == (3, SIDE, SIDE)


def test_images_held_out_of_another_size_need_one_whichever_they_are(tmp_path):
    folder = write_folder(tmp_path, {"train/cat": 5, "train/dog": 5})
    other = write_image(folder / "train/cat/000.png", size=(20, 20))
    for seed in range(8):
        assert f"{other} is 20x20" in complaint(folder, seed=seed)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_damaged_image_is_refused_before_the_search(part, two_classes):
    image = two_classes / part / "cat/000.png"
    image.write_bytes(image.read_bytes()[:-30])
    assert complaint(two_classes).startswith(f"{image} cannot be read as an image, it may be cut short or corrupt: ")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_vanishes_during_training(workers, two_classes):
    task = load(two_classes)
    gone = two_classes / "train/cat/002.png"
    gone.unlink()
    with pytest.raises(InputError) as refusal:
        list(image_batches(task.train, range(7), 2, workers=workers))
    assert str(refusal.value) == f"cannot read {gone}: No such file or directory."
    assert "\n" not in str(refusal.value)
