"""What few-shot tasks need of one split of a data set, wherever its images come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from utils.data.class_images import ClassImages, open_class_images
from utils.errors import WriteError


class Images(Protocol):
    """Images by class and number."""

    def read(self, classes: Sequence[int], numbers: Sequence[int]) -> Tensor:
        """Image ``numbers[i]`` of class ``classes[i]``, for each i: uint8 (images, channels, height, width)."""


@dataclass(frozen=True)
class SplitSize:
    """How many classes and images a split has, which tells a subset; rotated classes do not count."""

    split: str
    classes: int
    images: int


@dataclass(frozen=True)
class FewShotSplit:
    """The classes of a split.

    labels: what they are called, see :func:`class_name`.
    counts: images of each class; of synthetic glyphs one number, which holds for all.
    shape: (channels, height, width) of an image.
    images: decoded once, or when one is asked for.
    content: plain values that differ if other tasks would be drawn; None: the seed says it all.
    notes: sentences for the user.
    split_seed: split the classes into those to train on and others; None: the data set says which are which.
    """

    labels: Sequence
    counts: Sequence[int]
    shape: tuple[int, int, int]
    size: SplitSize
    images: Images
    content: list | None = None
    notes: tuple[str, ...] = ()
    split_seed: int | None = None

    @property
    def classes(self) -> int:
        """How many, rotated ones among them."""
        return max(len(self.labels), len(self.counts))

    def count(self, index: int) -> int:
        """Images of a class."""
        return self.counts[index] if len(self.counts) > 1 else self.counts[0]


def class_name(labels: Sequence, index: int) -> str:
    """The name of a class; a rotated class has the upright one's."""
    label = labels[index % len(labels)]
    if isinstance(label, int):
        return f"glyph {label}"
    return label if isinstance(label, str) else "/".join(label)


def decoded_once(
    path: Path, source: dict, counts: Sequence[int], shape: tuple[int, ...], decode: Callable[[int], np.ndarray]
) -> tuple[ClassImages | None, tuple[str, ...]]:
    """The images in their file, see :func:`open_class_images`; None and a note where it cannot be written."""
    try:
        return open_class_images(path, source, counts, shape, decode), ()
    except WriteError as error:
        return None, (f"{str(error).rstrip('.')}: the images of {path.stem} are decoded anew for every task.",)
