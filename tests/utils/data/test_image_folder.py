"""Folders of invented images: what is read, and everything that is refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFile

from utils.data.full_task_data import load_full_task
from utils.data.image_batches import image_batches
from utils.data.image_folder import channel_statistics
from utils.data.image_reader import SUFFIXES, Preparation, read_header, read_image
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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_read(suffix, tmp_path):
    mode = "L" if suffix == ".pgm" else "RGB"
    path = write_image(tmp_path / f"image{suffix.upper()}", 5, mode=mode)
    pixels = read_image(path, Preparation(3, SIDE))
    assert pixels.shape == (3, SIDE, SIDE)
    if suffix in (".png", ".bmp", ".ppm", ".tif"):
        assert np.array_equal(pixels, noise(5, SIDE, SIDE, 3).transpose(2, 0, 1))


def test_transparency_lies_over_white(tmp_path):
    pixels = noise(1, 8, 8, 4)
    pixels[0, 0] = (10, 20, 30, 0)
    pixels[0, 1] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    decoded = read_image(tmp_path / "rgba.png", Preparation(3, 8))
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert abs(decoded.transpose(1, 2, 0) - expected).max() <= 1  # Pillow rounds
    assert decoded[:, 0, 0].tolist() == [255, 255, 255]
    assert decoded[:, 0, 1].tolist() == [10, 20, 30]

    grey = noise(2, 8, 8, 2)
    grey[0, 0], grey[0, 1] = (9, 0), (9, 255)
    Image.fromarray(grey, "LA").save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png", Preparation(1, 8))[0, 0, :2].tolist() == [255, 9]

    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([200, 0, 0, 0, 0, 200])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=1)
    assert read_image(tmp_path / "palette.png", Preparation(3, 8))[:, 0, :2].T.tolist() == [
        [200, 0, 0],
        [255, 255, 255],
    ]


def test_the_first_frame_of_an_animation(tmp_path):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    for name in ("moving.gif", "moving.png", "moving.webp"):
        red.save(tmp_path / name, save_all=True, append_images=[blue], **({"lossless": True} if "webp" in name else {}))
        assert read_image(tmp_path / name, Preparation(3, 8))[:, 3, 3].tolist() == [255, 0, 0]


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    values = np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xFEFF, 0xFF00, 0xFFFF]] * 4).repeat(2, 1).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert read_header(tmp_path / "grey.png").grey
    assert np.array_equal(read_image(tmp_path / "grey.png", Preparation(1, 8))[0], values // 256)
    assert np.array_equal(read_image(tmp_path / "grey.png", Preparation(3, 8)), np.stack([values // 256] * 3))


# What a camera that was turned writes down, from the upright image.
AS_WRITTEN = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def write_turned(path: Path, upright: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(AS_WRITTEN[orientation](upright))).save(path, exif=exif, quality=100)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg", ".webp"])
@pytest.mark.parametrize("orientation", AS_WRITTEN)
def test_a_photograph_is_turned_upright(orientation, suffix, tmp_path):
    """Four quarters, of a colour each; higher than wide, which the header says before anything is decoded."""
    upright = np.zeros((32, 16, 3), np.uint8)
    upright[:16, 8:], upright[16:, :8], upright[16:, 8:] = (255, 0, 0), (0, 255, 0), (255, 255, 255)
    path = write_turned(tmp_path / f"turned{suffix}", upright, orientation)
    header = read_header(path)
    assert (header.width, header.height) == (16, 32)
    quarters = read_image(path, Preparation(3, 16))[:, 4::8, 4::8].transpose(1, 2, 0)
    assert abs(quarters.astype(int) - upright[8::16, 4::8]).max() < 40


def test_grey_of_sixteen_bits_and_transparency_are_turned_too(tmp_path):
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    assert np.array_equal(read_image(write_turned(tmp_path / "grey.png", grey, 6), Preparation(1, 8))[0], grey // 256)
    clear = np.full((8, 8, 4), 0, np.uint8)
    clear[:4, :, 3] = 255
    decoded = read_image(write_turned(tmp_path / "clear.png", clear, 8), Preparation(1, 8))[0]
    assert (decoded[:4] == 0).all()
    assert (decoded[4:] == 255).all()


def test_headers_are_read_without_decoding(tmp_path, monkeypatch):
    """An image may take much memory, and a folder hold many."""
    paths = [write_image(tmp_path / f"image{suffix}") for suffix in (".png", ".jpg", ".tif", ".webp")]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail(f"{image.format} was decoded"))
    for path in paths:
        assert read_header(path).width == SIDE


def test_a_large_photograph_is_decoded_at_a_fraction_of_its_size(tmp_path):
    ramp = np.linspace(0, 255, 400).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (400, 1))] * 3, -1)).save(tmp_path / "ramp.jpg", quality=95)
    pixels = read_image(tmp_path / "ramp.jpg", Preparation(3, 20))
    expected = ramp.reshape(20, 20).mean(1)
    assert abs(pixels.astype(float) - expected).max() < 4


def test_companions_of_images_are_passed_over(two_classes):
    expected = load(two_classes).train
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "README.md", "readme", "LICENSE.txt", "._cat.png"):
        (two_classes / "train/cat" / name).write_bytes(b"no image")
    for name in ("labels.csv", ".DS_Store"):
        (two_classes / "train" / name).write_bytes(b"no image")
    (two_classes / "train/.ipynb_checkpoints").mkdir()
    (two_classes / "val").mkdir()
    assert load(two_classes).train == expected


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_no_train_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        text = f"--data_path {folder} holds no train/ folder: images lie in {folder}/train/<class>/."
        assert complaint(folder) == text


def test_no_class_folders(two_classes, tmp_path):
    (tmp_path / "other/train").mkdir(parents=True)
    folder = tmp_path / "other/train"
    assert complaint(folder.parent) == f"{folder} holds no class folders: images lie in {folder}/<class>/."
    image = write_image(two_classes / "test/stray.PNG")
    assert complaint(two_classes) == f"{image} belongs to no class: images lie in {image.parent}/<class>/."


def test_an_empty_class(two_classes):
    for part in ("test", "train"):
        empty = two_classes / part / "dog"
        for file in empty.iterdir():
            file.unlink()
        (empty / ".DS_Store").write_bytes(b"")
        assert complaint(two_classes) == f"{empty} holds no images: fill or remove that class folder."


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


def test_a_file_that_is_no_image(two_classes):
    for name in ("notes.txt", "0.png.part", "0"):
        file = two_classes / "train/dog" / name
        file.write_bytes(b"no image")
        text = complaint(two_classes)
        assert text.startswith(f"{file} is no image file: those end in .png, .jpg, ")
        file.unlink()


def test_a_folder_in_a_class(two_classes):
    write_image(two_classes / "train/dog/terrier/0.png")
    folder = two_classes / "train/dog"
    assert complaint(two_classes) == (
        f"{folder}/terrier is a folder in a class folder: images lie directly in {folder}."
    )


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("size", [(1, 1), (40, 7)])
def test_an_image_too_small(size, part, two_classes):
    image = write_image(two_classes / part / "dog/small.png", size=size)
    text = f"{image} is too small, {size[0]}x{size[1]} pixels: 8x8 is the least."
    assert complaint(two_classes) == complaint(two_classes, input_size=8) == text


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


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(0, 64, 64, 3)).save(buffer, kind)
    return buffer.getvalue()


def flipped_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE = {
    "empty.png": b"",
    "text.jpg": b"no image at all",
    "page.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n",
    "half.png": encoded("png")[:6000],
    "half.jpg": encoded("jpeg")[:1500],
    "half.bmp": encoded("bmp")[:6000],
    "half.webp": encoded("webp")[:1500],
    "half.tif": encoded("tiff")[:6000],
    "head.png": encoded("png")[:20],
    "bit.png": flipped_bit(encoded("png")),
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_image(name, part, two_classes):
    image = two_classes / part / "cat" / name
    image.write_bytes(DAMAGE[name])
    text = complaint(two_classes, input_size=32)
    assert text.startswith(f"{image} cannot be read as an image, it may be cut short or corrupt: ")


def test_an_image_that_claims_to_be_huge(two_classes):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    image = two_classes / "train/cat/huge.png"
    header = struct.pack(">2I5B", 60000, 60000, 8, 2, 0, 0, 0)
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))
    assert complaint(two_classes, input_size=8).startswith(f"{image} cannot be read as an image")


def test_floating_point_pixels(two_classes):
    image = two_classes / "train/cat/depth.tif"
    Image.fromarray(np.ones((SIDE, SIDE), np.float32)).save(image)
    assert complaint(two_classes).startswith(f"{image} has floating-point pixels, whose range is not known: ")


def test_a_link_to_nowhere(two_classes):
    link = two_classes / "train/cat/link.png"
    link.symlink_to(two_classes / "gone.png")
    assert complaint(two_classes).startswith(f"{link} cannot be read as an image")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_vanishes_during_training(workers, two_classes):
    task = load(two_classes)
    gone = two_classes / "train/cat/002.png"
    gone.unlink()
    with pytest.raises(InputError) as refusal:
        list(image_batches(task.train, range(7), 2, workers=workers))
    assert str(refusal.value).startswith(f"{gone} cannot be read as an image")
    assert "\n" not in str(refusal.value)
