"""The images of miniImageNet in the pickles that earlier projects published; no code of theirs is run."""

import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from utils.data.archives import TarMember, refusing_damage
from utils.data.class_folders import check_name
from utils.data.image_reader import SMALLEST_SIDE
from utils.errors import InputError

PICKLE_NAME = "mini-imagenet-cache-{}.pkl"
PICKLES_ARCHIVE = "mini-imagenet.tar.gz"
LARGEST_PICKLE = 2**30  # bytes; the published one of the training classes has 0.8e9


class PickledImages:
    """One ``mini-imagenet-cache-<split>.pkl``, by itself or in the tar.gz of all three.

    It holds ``image_data``, uint8 (images, height, width, 3), and ``class_dict``, name -> rows of ``image_data``.

    Raises:
        InputError: the pickle is damaged, holds anything but arrays and plain containers, or a class has no images.
    """

    def __init__(self, path: Path, split: str):
        with refusing_damage(path):
            content = _load_pickle(path, PICKLE_NAME.format(split))
        if not isinstance(content, dict) or not {"image_data", "class_dict"} <= set(content):
            raise InputError(f"{path} is not what it should be: a dict with image_data and class_dict.")
        self.images, rows = content["image_data"], content["class_dict"]
        if not isinstance(self.images, np.ndarray) or self.images.dtype != np.uint8 or self.images.shape[3:] != (3,):
            raise InputError(f"{path} is not what it should be: image_data must be uint8 (images, height, width, 3).")
        if min(self.images.shape[1:3]) < SMALLEST_SIDE:
            raise InputError(f"{path} is not what it should be: images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE}.")
        with refusing_damage(path):
            self.rows = {str(name): np.asarray(rows[name]).reshape(-1) for name in sorted(rows)}
        for name, indices in self.rows.items():
            check_name(f"{path}: {name}")
            if PurePosixPath(name).name != name or not name:
                raise InputError(f"{path} is not what it should be: {name!r} is no name of a class.")
            if len(indices) == 0:
                raise InputError(f"{path} holds no images of the class {name}.")
            if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= len(self.images):
                raise InputError(f"{path} is not what it should be: class {name} names rows that image_data lacks.")
        self.counts = {name: len(indices) for name, indices in self.rows.items()}

    def read(self) -> Iterator[tuple[str, int, np.ndarray]]:
        for name, indices in self.rows.items():
            for row, index in enumerate(indices):
                yield name, row, _resized(self.images[index])


def _resized(pixels: np.ndarray) -> np.ndarray:
    """uint8 (height, width, 3) -> (84, 84, 3)."""
    if pixels.shape[:2] == (84, 84):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((84, 84), Image.Resampling.BILINEAR))


class _ArraysOnly(pickle.Unpickler):
    """Admits what numpy arrays and plain containers need; a pickle may otherwise run any code."""

    ADMITTED = frozenset(
        [("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")]
        + [("collections", "OrderedDict"), ("collections", "defaultdict"), ("builtins", "list"), ("builtins", "range")]
        + [(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
        + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
    )

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array or plain container")
        return super().find_class(module, name)


def _load_pickle(path: Path, name: str) -> dict:
    if path.name != PICKLES_ARCHIVE:
        _check_size(path, path.stat().st_size)
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    with tarfile.open(path, tarinfo=TarMember) as archive:
        for member in archive:
            if PurePosixPath(member.name).name == name and member.isfile():
                _check_size(f"{path}: {name}", member.size)
                return _ArraysOnly(archive.extractfile(member), encoding="latin1").load()
    raise tarfile.ReadError(f"it lacks {name}")


def _check_size(name: Path | str, size: int) -> None:
    if size > LARGEST_PICKLE:
        raise InputError(f"{name} has {size} bytes: a part of miniImageNet has {LARGEST_PICKLE} at most.")
