"""The images of many classes in one file, decoded once and mapped into memory."""

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from utils.errors import InputError
from utils.run.files import locked, replacing, write_json
from utils.run.progress import progress_bar

FORMAT = 2


class ClassImages:
    """Images by class and number, uint8, in a .npy file.

    Args:
        path: the file, (images, channels, height, width), class by class.
        counts: images of each class.
        digest: the SHA-256 of all pixels.

    Raises:
        OSError, ValueError: no such file, or one that is cut short or something else.
    """

    def __init__(self, path: Path, counts: Sequence[int], digest: str):
        self.path, self.counts, self.digest = path, counts, digest
        self._first = [0, *accumulate(counts)]
        self._pixels = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._pixels.shape

    @property
    def dtype(self) -> np.dtype:
        return self._pixels.dtype

    def read(self, classes: Sequence[int], numbers: Sequence[int]) -> torch.Tensor:
        """Image ``numbers[i]`` of class ``classes[i]``, for each i: uint8 (images, channels, height, width)."""
        rows = [self._first[index] + number for index, number in zip(classes, numbers, strict=True)]
        return torch.from_numpy(self._pixels[rows])

    def __getstate__(self) -> dict:
        """Another process maps the file for itself."""
        return {"path": self.path, "counts": self.counts, "digest": self.digest}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


def open_class_images(
    path: Path, source: dict, counts: Sequence[int], shape: tuple[int, ...], decode: Callable[[int], np.ndarray]
) -> ClassImages:
    """Maps the file; decodes and writes it first where it is not there, cut short, stale or of something else.

    Beside it, ``path`` with .json says what it holds. Processes that come at once wait for the one that writes.

    Args:
        source: plain values; what a file was made from must equal them.
        shape: of an image, (channels, height, width).
        decode: from a class's index to its images, uint8 (images, channels, height, width).

    Raises:
        WriteError: the file is not there and cannot be written.
        InputError: ``decode`` raised it.
    """
    description = _description(source, counts, shape)
    images = _open(path, description)
    if images is not None:
        return images
    with locked(path.with_suffix(".lock")):
        images = _open(path, description)  # it may have been written while this process waited
        if images is None:
            images = ClassImages(path, counts, _write(path, description, decode))
    return images


def stored_class_images(path: Path, source: dict, shape: tuple[int, ...]) -> ClassImages | None:
    """Maps the file, whatever numbers of images it has; None where it is not there, cut short, stale or another's."""
    try:
        counts = json.loads(path.with_suffix(".json").read_text())["counts"]
        return _open(path, _description(source, counts, shape))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _description(source: dict, counts: Sequence[int], shape: tuple[int, ...]) -> dict:
    return {"format": FORMAT, "source": source, "shape": list(shape), "counts": list(counts)}


def _open(path: Path, description: dict) -> ClassImages | None:
    """The images, None where the file is not what is described."""
    try:
        found = json.loads(path.with_suffix(".json").read_text())
        digest = found.pop("pixels")
        if found != description:
            return None
        images = ClassImages(path, description["counts"], digest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    expected = (sum(description["counts"]), *description["shape"])
    return images if images.dtype == np.uint8 and images.shape == expected else None


def _write(path: Path, description: dict, decode: Callable[[int], np.ndarray]) -> str:
    """Writes the file and its description; returns the SHA-256 of the pixels."""
    digest = hashlib.sha256()
    counts, shape = description["counts"], tuple(description["shape"])
    header = {"descr": "|u1", "fortran_order": False, "shape": (sum(counts), *shape)}
    # Written, not mapped: with a full disk a write raises, where a mapping would end the process.
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for index, count in enumerate(progress_bar(counts, f"decoding {path.stem}, once", "class", 0, len(counts))):
            pixels = decode(index)
            if pixels.shape != (count, *shape) or pixels.dtype != np.uint8:
                raise InputError(f"class {index} for {path} has images of another size than {shape}.")
            content = pixels.tobytes()
            digest.update(content)
            file.write(content)
    # Last: until it is there, or if this process dies here, an old description is of another source.
    write_json(path.with_suffix(".json"), {**description, "pixels": digest.hexdigest()})
    return digest.hexdigest()
