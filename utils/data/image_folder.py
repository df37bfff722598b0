"""The images of a folder as a data set: how all of them are prepared, and each one when it is asked for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.data.image_reader import (
    DEPTHS,
    Header,
    Preparation,
    check_input_size,
    largest_value,
    opened,
    read_header,
    read_image,
)
from utils.errors import InputError

SECONDS_BEFORE_A_BAR = 3


@dataclass(frozen=True)
class FolderImages:
    """Images that are decoded when asked for: ``images[index]`` is uint8 (channels, side, side).

    Raises:
        InputError: when asked for an image that cannot be decoded.
    """

    paths: tuple[Path, ...]
    preparation: Preparation

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index], self.preparation)

    def each(self, name: str) -> Iterator[np.ndarray]:
        """Every image in turn, under a progress bar if that takes long."""
        return (self[index] for index in _bar(range(len(self)), name))


def survey(
    paths: Sequence[Path], input_size: int | None = None, channels: int | None = None
) -> tuple[Preparation, tuple[str, ...]]:
    """How images are prepared to be one data set, and sentences for the user on what that changes in them.

    Args:
        input_size: the side in pixels that they are resized to; None: as they are, all square and of one size.
        channels: 1 or 3; None: 1 if all images are grey, else 3.

    Raises:
        InputError: an image that is none, or images of several sizes without ``input_size``.
    """
    check_input_size(input_size)
    headers = [read_header(path) for path in _bar(paths, "headers of images")]
    side = input_size or _common_side(headers)
    grey = sum(header.grey for header in headers)
    channels = channels or (1 if grey == len(headers) else 3)
    notes = []
    stretched = sum(header.width != header.height for header in headers)
    if stretched:
        notes.append(f"{stretched} of {len(headers)} images are not square: they are stretched to {side}x{side}.")
    if channels == 1 and grey < len(headers):
        notes.append(f"{len(headers) - grey} of {len(headers)} images have colours: they are made grey.")
    if channels == 3 and grey:
        notes.append(f"{grey} of {len(headers)} images are grey: they get three equal channels.")
    bits, note = _depth([header for header in headers if header.deep])
    return Preparation(channels, side, bits), (*notes, *note)


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


def _common_side(headers: list[Header]) -> int:
    """The one side of images that are all square and of one size."""
    first = headers[0]
    for header in headers:
        if not header.width == header.height == first.width:
            sizes = " and ".join(f"{h.path} is {h.width}x{h.height}" for h in dict.fromkeys((first, header)))
            raise InputError(
                f"the images are not all square and of one size ({sizes}): give --input_size, the side in "
                f"pixels that they are resized to."
            )
    return first.width


def _depth(headers: list[Header]) -> tuple[int | None, list[str]]:
    """The bits of the set's pixels of more than 8, by the largest value of all, and a note where they are under 16.

    Sensors give 10, 12 or 14 bits, files keep 16 and do not say so: by itself, a picture of 10 bits looks black.
    """
    if not headers:
        return None, []
    largest, colour = 0, None
    for header in _bar(headers, "range of pixels"):
        with opened(header.path, str(header.path)) as image:
            largest = max(largest, largest_value(image, str(header.path)))
        colour = colour or (None if header.grey else header.path)
    bits = next(bits for bits in DEPTHS if largest < 2**bits)
    if bits == DEPTHS[-1]:
        return bits, []
    if colour:
        raise InputError(f"{colour} has colours of 16 bits, none above {largest}: save it with 8 bits.")
    note = f"{len(headers)} images have pixels of 16 bits, none above {largest}: {2**bits - 1} is taken for white."
    return bits, [note]


def _bar(items: Sequence, name: str) -> tqdm:
    return tqdm(items, name, unit="image", delay=SECONDS_BEFORE_A_BAR, mininterval=1)
