"""A folder of images, one sub-folder a class: checked whole, decoded one image at a time.

An image becomes uint8 (channels, side, side). A photograph is turned upright, as its EXIF orientation says; one that is
not square is stretched; of an animation the first frame counts; transparency is laid over white; 16-bit grey keeps its
upper 8 bits.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from utils.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
# Pillow goes by a file's content, and would try formats that start other programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
# Files that operating systems and authors leave among images; hidden ones are passed over too.
COMPANIONS = ("thumbs.db", "desktop.ini")
COMPANION_STEMS = ("readme", "license", "licence")
GREY_MODES = ("1", "L", "LA", "I")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations
SMALLEST_SIDE = 8
SECONDS_BEFORE_A_BAR = 3


@dataclass(frozen=True)
class Header:
    """What a file says of its image before it is decoded; width and height in pixels, of the upright image."""

    path: Path
    width: int
    height: int
    grey: bool


@dataclass(frozen=True)
class FolderImages:
    """Images that are decoded when asked for: ``images[index]`` is uint8 (channels, side, side).

    Raises:
        InputError: when asked for an image that cannot be decoded.
    """

    paths: tuple[Path, ...]
    channels: int
    side: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return decode(self.paths[index], self.channels, self.side)

    def each(self, name: str) -> Iterator[np.ndarray]:
        """Every image in turn, under a progress bar if that takes long."""
        indices = tqdm(range(len(self)), name, unit="image", delay=SECONDS_BEFORE_A_BAR, mininterval=1)
        return (self[index] for index in indices)


def list_classes(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, both sorted by name.

    Raises:
        InputError: no class folders, a class without images, or a file or folder where none should be.
    """
    classes = {}
    for entry in _visible(folder):
        if entry.is_dir():
            classes[entry.name] = _list_images(entry)
        elif entry.suffix.lower() in SUFFIXES:
            raise InputError(f"{entry} belongs to no class: images lie in {folder}/<class>/.")
    if not classes:
        raise InputError(f"{folder} holds no class folders: images lie in {folder}/<class>/.")
    return classes


def _list_images(folder: Path) -> list[Path]:
    files = []
    for entry in _visible(folder):
        if entry.is_dir():
            raise InputError(f"{entry} is a folder in a class folder: images lie directly in {folder}.")
        if entry.suffix.lower() in SUFFIXES:
            files.append(entry)
        elif entry.name.lower() not in COMPANIONS and entry.stem.lower() not in COMPANION_STEMS:
            raise InputError(f"{entry} is no image file: those end in {', '.join(SUFFIXES)}.")
    if not files:
        raise InputError(f"{folder} holds no images: fill or remove that class folder.")
    return files


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}.") from error


def read_header(path: Path) -> Header:
    """Reads the size and the kind of an image.

    Raises:
        InputError: it is no image, too small, or of floating-point pixels.
    """
    with _opened(path) as image:
        width, height, mode = *_upright_size(image), image.mode
    if min(width, height) < SMALLEST_SIDE:
        raise InputError(f"{path} is too small, {width}x{height} pixels: {SMALLEST_SIDE}x{SMALLEST_SIDE} is the least.")
    if mode == "F":
        raise InputError(f"{path} has floating-point pixels, whose range is not known: save it with 8 or 16 bits.")
    return Header(path, width, height, _kind(mode) in GREY_MODES)


def decode(path: Path, channels: int, side: int) -> np.ndarray:
    """Decodes a file to uint8 (channels, side, side).

    Args:
        channels: 1, grey, or 3, RGB.

    Raises:
        InputError: it is cut short or corrupt.
    """
    with _opened(path) as image:
        # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that still is twice the wanted one: less memory, time.
        image.draft(None, (2 * side, 2 * side))
        ImageOps.exif_transpose(image, in_place=True)
        if _kind(image.mode) == "I":
            picture = Image.fromarray((np.asarray(image).clip(0, 0xFFFF) >> 8).astype(np.uint8))
        elif image.has_transparency_data:
            picture = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        else:
            picture = image
        picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(side, side, channels).transpose(2, 0, 1)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Its width and height; Pillow has turned a TIFF's itself."""
    # Not image.getexif(): a PNG's decodes the whole image, to find EXIF data that are absent.
    orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    turn = orientation in SIDEWAYS and image.format != "TIFF"
    return image.size[::-1] if turn else image.size


def _kind(mode: str) -> str:
    """Pillow's mode without the layout of its bytes: "I;16B" -> "I"."""
    return mode.partition(";")[0]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except Exception as error:  # Pillow raises almost anything for a damaged image
        reason = "it has no known format" if isinstance(error, UnidentifiedImageError) else str(error).rstrip(".")
        raise InputError(f"{path} cannot be read as an image, it may be cut short or corrupt: {reason}.") from error


def channel_statistics(images: Iterable[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each channel, on the [0, 1] scale, in one pass.

    Args:
        images: uint8 (C, H, W) each.
    """
    counts: np.ndarray | int = 0  # of each channel's 256 values: exact, in any order
    for image in images:
        counts = counts + np.stack([np.bincount(channel.ravel(), minlength=256) for channel in image])
    values, pixels = np.arange(256) / 255, counts[0].sum()
    mean = counts @ values / pixels
    std = np.sqrt((counts * (values - mean[:, None]) ** 2).sum(1) / pixels)
    std[counts.max(1) == pixels] = 1.0  # a channel of one value: there is nothing to scale
    return tuple(mean.tolist()), tuple(std.tolist())
