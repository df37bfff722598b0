"""What few-shot tasks need of one split of a data set, wherever its images come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.data.class_images import ClassImages, open_class_images
from utils.data.torchmeta_mend import torchmeta
from utils.errors import WriteError


@dataclass(frozen=True)
class SplitSize:
    """How many classes and images a split has, which tells a subset; rotated classes do not count."""

    split: str
    classes: int
    images: int


@dataclass(frozen=True)
class FewShotSplit:
    """The classes of a split.

    classes: torchmeta's data set of classes; an item is the data set of one class. Its ``labels`` are their names.
    counts: images of each class; of synthetic glyphs one number, which holds for all.
    shape: (channels, height, width) of an image.
    content: plain values that differ if other tasks would be drawn; None: the seed says it all.
    images: decoded once; None: an image is decoded, or drawn, when it is asked for.
    notes: sentences for the user.
    split_seed: split the classes into those to train on and others; None: the data set says which are which.
    """

    classes: torchmeta.utils.data.ClassDataset
    counts: Sequence[int]
    shape: tuple[int, int, int]
    size: SplitSize
    content: list | None = None
    images: ClassImages | None = None
    notes: tuple[str, ...] = ()
    split_seed: int | None = None


def class_name(classes: torchmeta.utils.data.ClassDataset, index: int) -> str:
    """The name of a class; a rotated class has the upright one's."""
    label = classes.labels[index % len(classes.labels)]
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
