"""A folder of images as a few-shot data set: ``train|val|test/<class>/<image>`` of other classes each, or all in one.

The images of a split are decoded once, into the hidden folder ``.cache/`` beside them.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from utils.data.class_folders import list_classes, visible
from utils.data.few_shot_split import FewShotSplit, SplitSize, decoded_once
from utils.data.image_folder import FolderImages, survey
from utils.data.image_reader import Preparation
from utils.draws import numpy_generator
from utils.errors import InputError

SHARES = {"train": 0.64, "val": 0.16, "test": 0.2}  # of the classes, as of miniImageNet's

Classes = dict[str, list[Path]]


def folder_split(
    folder: Path, split: str, *, seed: int, input_size: int | None = None, channels: int | None = None
) -> FewShotSplit:
    """The classes of one split of a folder.

    Args:
        folder: holds ``train/``, ``val/`` and ``test/`` with folders of classes, no class in two of them; or folders of
            classes, which are then split by the seed.
        input_size: the side in pixels that images are resized to; None: as they are, all square and of one size.
        channels: 1 or 3; None: 1 if all images are grey, else 3.

    Raises:
        InputError: the folder is not laid out so, or an image cannot be read.
    """
    splits, notes = _list_splits(folder, seed)
    if not splits.get(split):
        raise InputError(
            f"--data_path {folder} has no classes for {split}: they lie in {folder / split}/<class>/, or those of all "
            f"splits directly in {folder}/<class>/."
        )
    preparation, changes = _survey(splits, input_size, channels)
    classes = ClassFolders([FolderImages(tuple(paths), preparation) for paths in splits[split].values()])
    counts = [len(paths) for paths in splits[split].values()]
    classes_of = f"{split}_seed{seed}" if notes else split
    name = f"{classes_of}_{'x'.join(map(str, preparation.shape))}"
    source = {"bits": preparation.bits, "files": _files_digest(splits[split])}
    decoded, trouble = decoded_once(
        folder / ".cache" / f"{name}.npy", source, counts, preparation.shape, classes.decode
    )
    digest = decoded.digest if decoded else classes.digest()
    size, labels = SplitSize(split, len(counts), sum(counts)), list(splits[split])
    content, said, split_seed = [labels, counts, digest], (*notes, *changes, *trouble), seed if notes else None
    return FewShotSplit(labels, counts, preparation.shape, size, decoded or classes, content, said, split_seed)


class ClassFolders:
    """Images by class and number, decoded when they are asked for.

    Args:
        folders: the images of each class.
    """

    def __init__(self, folders: list[FolderImages]):
        self.folders = folders

    def read(self, classes: Sequence[int], numbers: Sequence[int]) -> torch.Tensor:
        """Image ``numbers[i]`` of class ``classes[i]``, for each i: uint8 (images, channels, height, width)."""
        pixels = [self.folders[index][number] for index, number in zip(classes, numbers, strict=True)]
        return torch.from_numpy(np.stack(pixels))

    def decode(self, index: int) -> np.ndarray:
        """All images of a class, uint8 (images, channels, height, width)."""
        return np.stack([self.folders[index][number] for number in range(len(self.folders[index]))])

    def digest(self) -> str:
        """The SHA-256 of all pixels."""
        digest = hashlib.sha256()
        for index in range(len(self.folders)):
            digest.update(self.decode(index).tobytes())
        return digest.hexdigest()


def _list_splits(folder: Path, seed: int) -> tuple[dict[str, Classes], list[str]]:
    """The classes of each split that is there, and a note if the seed has split them."""
    present = {entry.name for entry in visible(folder) if entry.name in SHARES and entry.is_dir()}
    if not present:
        return _split_by_seed(folder, list_classes(folder), seed)
    splits = {split: list_classes(folder / split) for split in SHARES if split in present}
    owners: dict[str, str] = {}
    for split, classes in splits.items():
        for name in classes:
            if owners.setdefault(name, split) != split:
                raise InputError(
                    f"the class {name} is in {folder / owners[name]} and in {folder / split}: few-shot splits share no "
                    f"class (for a full task, which has the same classes in both, use --task full)."
                )
    return splits, []


def _split_by_seed(folder: Path, classes: Classes, seed: int) -> tuple[dict[str, Classes], list[str]]:
    names = numpy_generator(seed, "split of classes").permutation(sorted(classes)).tolist()
    train, val = (round(len(names) * SHARES[split]) for split in ("train", "val"))
    parts = {"train": names[:train], "val": names[train : train + val], "test": names[train + val :]}
    sizes = ", ".join(f"{len(part)} {split}" for split, part in parts.items())
    note = f"{folder} has no train/, val/ and test/: seed {seed} splits its {len(names)} classes into {sizes}."
    return {split: {name: classes[name] for name in sorted(part)} for split, part in parts.items()}, [note]


def _survey(
    splits: dict[str, Classes], input_size: int | None, channels: int | None
) -> tuple[Preparation, tuple[str, ...]]:
    """One preparation for all splits: a network that is trained on one is tested on another."""
    return survey(
        [path for classes in splits.values() for paths in classes.values() for path in paths], input_size, channels
    )


def _files_digest(classes: Classes) -> str:
    """Of what the file system says of the images; another one if an image was changed."""
    digest = hashlib.sha256()
    for name, paths in classes.items():
        for path in paths:
            status = path.stat()
            digest.update(f"{name}/{path.name}/{status.st_size}/{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
