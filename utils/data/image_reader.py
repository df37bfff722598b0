"""Reads one image file: rightly, or refuses it by name with the reason. Needs numpy and Pillow alone.

Every picture that enters the project comes through here. Only the formats of ``FORMATS`` are opened: Pillow would try
others, some of which start other programs.
"""

import contextlib
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from utils.errors import InputError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
GREY_MODES = ("1", "L", "LA", "I")
# How Pillow names what lies in a file; ";16" alone is also said of colours that share 16 bits.
DEEP_LAYOUTS = ("I;16", ";16B", ";16L", ";16N", ";16S", ";16BS", ";16NS")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a TIFF's tag
SMALLEST_SIDE = 8
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and sensors give a pixel, all of which files keep as 16


@dataclass(frozen=True)
class Preparation:
    """How the pictures of a data set become arrays of one form.

    channels: 1, grey, or 3, RGB.
    side: height and width in pixels.
    bits: of integer pixels that a file keeps with more than 8 bits: 2**bits - 1 is white. None: not known, and a
        picture that leaves it open is refused.
    """

    channels: int
    side: int
    bits: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.side, self.side


@dataclass(frozen=True)
class Header:
    """What a file says of its image before it is decoded.

    width, height: in pixels, of the upright image.
    deep: a channel of a pixel has more than 8 bits, and the file does not say what is white.
    """

    path: Path
    width: int
    height: int
    grey: bool
    deep: bool


def check_input_size(input_size: int | None) -> None:
    """Refuses a side in pixels that is under the smallest."""
    if input_size is not None and input_size < SMALLEST_SIDE:
        raise InputError(f"--input_size {input_size} is too small: {SMALLEST_SIDE} pixels is the least.")


def prepare(image: Image.Image, preparation: Preparation, name: str) -> np.ndarray:
    """An opened image as uint8 (channels, side, side); divided by 255, it is what a network sees, in [0, 1].

    In this order, so that other programs can do the same:
    1. of several frames or pages, the first; a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still at
       least twice the wanted one;
    2. turned upright, as its EXIF orientation says;
    3. pixels of more than 8 bits keep the upper 8 of their ``bits``;
    4. transparency is laid over white;
    5. grey by the weights 0.299, 0.587, 0.114, or RGB;
    6. resized to side x side, bilinear with antialiasing; an image that is not square is stretched.

    Raises:
        InputError: the range of its pixels is not known, or not the one of ``bits``.
    """
    image.draft(None, (2 * preparation.side, 2 * preparation.side))
    deep = _is_deep(image)
    ImageOps.exif_transpose(image, in_place=True)
    if deep:
        check_range(largest_value(image, name), preparation.bits, name)
    if _kind(image.mode) == "I":
        pixels = np.asarray(image) >> ((preparation.bits or 16) - 8 if deep else 8)
        if "transparency" in image.info:
            pixels = np.where(np.asarray(image) == image.info["transparency"], 255, pixels)
        picture = Image.fromarray(pixels.astype(np.uint8))
    elif image.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    else:
        picture = image
    picture = picture.convert("L" if preparation.channels == 1 else "RGB")
    side = preparation.side
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(side, side, preparation.channels).transpose(2, 0, 1)


def read_image(source: Path | BinaryIO, preparation: Preparation, name: str | None = None) -> np.ndarray:
    """The image of a file as :func:`prepare` makes it: uint8 (channels, side, side).

    Args:
        source: a path, or the content of a file, which then needs a ``name`` for complaints.

    Raises:
        InputError: it cannot be read; names the file and says why.
    """
    name = name or str(source)
    with opened(source, name) as image:
        _check(image, name)
        return prepare(image, preparation, name)


def read_header(path: Path) -> Header:
    """The size and the kind of an image, which is not decoded.

    Raises:
        InputError: it is no image, too small, or of floating-point pixels.
    """
    with opened(path, str(path)) as image:
        width, height = _check(image, str(path))
        return Header(path, width, height, _kind(image.mode) in GREY_MODES, _is_deep(image))


def largest_value(image: Image.Image, name: str) -> int:
    """The largest value of a pixel of more than 8 bits; of colour, of which Pillow keeps the upper 8, an upper bound.

    Raises:
        InputError: it has negative values, or more than 16 bits.
    """
    if _kind(image.mode) != "I":
        return int(np.asarray(image.convert("RGB")).max()) * 256 + 255
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise InputError(
            f"{name} has pixels from {pixels.min()} to {pixels.max()}, whose range is not known: save it with 8 bits."
        )
    return int(pixels.max())


def check_range(largest: int, bits: int | None, name: str) -> None:
    """Refuses an image of more than 8 bits a pixel whose largest value does not fit, or tells nothing of its range."""
    if bits is None and largest < 2**12:
        raise InputError(
            f"{name} has pixels of 16 bits, none above {largest}, so what is white is not known: save it with 8 bits."
        )
    if bits is not None and largest >= 2**bits:
        raise InputError(
            f"{name} has pixels of up to {largest}, more than the {bits} bits of the others: save all with 8 bits."
        )


@contextlib.contextmanager
def opened(source: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """Opens an image for the time of a ``with`` block; whatever is wrong with it is refused in one sentence."""
    try:
        if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
            raise InputError(f"{name} is no regular file, so no image.")
        with warnings.catch_warnings():
            # Pillow's are about large images and about what else a file holds, such as damaged EXIF data.
            warnings.simplefilter("ignore")
            with Image.open(source, formats=FORMATS) as image:
                yield image
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is no whole image of {', '.join(FORMATS)}: convert it to PNG or JPEG.") from error
    except Image.DecompressionBombError as error:
        millions = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise InputError(f"{name} has more than {millions} million pixels: make it smaller.") from error
    except Exception as error:  # Pillow raises almost anything for a damaged image
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"cannot read {name}: {error.strerror}.") from error
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"{name} cannot be read as an image, it may be cut short or corrupt: {reason}.") from error


def _check(image: Image.Image, name: str) -> tuple[int, int]:
    """The width and height of the upright image.

    Raises:
        InputError: it is too small or of floating-point pixels.
    """
    # Not image.getexif(): a PNG's decodes the whole image, to find EXIF data that are absent.
    orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    turn = orientation in SIDEWAYS and image.format != "TIFF"  # Pillow has turned a TIFF's size itself
    width, height = image.size[::-1] if turn else image.size
    if min(width, height) < SMALLEST_SIDE:
        raise InputError(f"{name} is too small, {width}x{height} pixels: {SMALLEST_SIDE}x{SMALLEST_SIDE} is the least.")
    if image.mode == "F":
        raise InputError(f"{name} has floating-point pixels, whose range is not known: save it with 8 or 16 bits.")
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO and _is_deep(image):
        raise InputError(f"{name} has pixels of 16 bits of which 0 is white: save it with 8 bits.")  # Pillow ignores it
    return width, height


def _is_deep(image: Image.Image) -> bool:
    """Whether a channel of a pixel has more than 8 bits, and no word on what is white; of an image not decoded yet."""
    # A PGM file says what is white, and Pillow scales by it; but what is written with 65535 may be of fewer bits.
    layouts = (tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile if tile.args)
    return any(str(layout).endswith(DEEP_LAYOUTS) for layout in layouts) or (
        _kind(image.mode) == "I" and image.format != "PPM"
    )


def _kind(mode: str) -> str:
    """Pillow's mode without the layout of its bytes: "I;16B" -> "I"."""
    return mode.partition(";")[0]
