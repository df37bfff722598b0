"""Omniglot and miniImageNet by torchmeta, from the prepared files; decoded once into ``cache/`` beside them."""

from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import Compose, Resize, ToTensor

from utils.data.few_shot_split import FewShotSplit, SplitSize, decoded_once
from utils.data.names import INPUT_SHAPES
from utils.data.prepare import WEBSITE, download, is_prepared, prepare_command
from utils.data.torchmeta_mend import torchmeta
from utils.errors import InputError

ClassDataset = torchmeta.utils.data.ClassDataset

# What h5py, PIL and torchmeta raise for files that are cut short or corrupt.
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError)

# Channels, height, width.


def torchmeta_split(
    dataset: str, split: str, data_path: Path, use_vinyals_split: bool, download_absent: bool
) -> FewShotSplit:
    """The classes of a split of Omniglot or miniImageNet.

    Raises:
        InputError: the data are absent, cannot be read or are damaged, or there is no such split.
    """
    if split == "val" and dataset == "omniglot" and not use_vinyals_split:
        raise InputError("Omniglot's background/evaluation split has no validation classes: use --use_vinyals_split 1.")
    if not is_prepared(dataset, data_path):
        if not download_absent:
            raise InputError(
                f"--data_path {data_path} holds no prepared {dataset}: pass --download, or get it from "
                f"{WEBSITE[dataset]} and run {prepare_command(dataset, data_path)}."
            )
        download(dataset, data_path)
    try:
        classes = _open_classes(dataset, split, data_path, use_vinyals_split)
        forms = 1 + len(classes.class_augmentations)  # a class as it is, and rotated
        names = ["/".join(label) if dataset == "omniglot" else label for label in classes.labels]
        counts = [len(classes.data[name]) for name in names] * forms
        classes.close()
    except DAMAGE as error:
        raise _refusal(dataset, split, data_path, error) from error
    images, notes = _decoded_once(dataset, classes, counts, data_path)
    size = SplitSize(split, len(counts) // forms, sum(counts) // forms)
    return FewShotSplit(classes, counts, INPUT_SHAPES[dataset], size, [classes.labels, counts], images, notes)


def _open_classes(dataset: str, split: str, data_path: Path, use_vinyals_split: bool) -> ClassDataset:
    if dataset == "miniimagenet":
        return torchmeta.datasets.miniimagenet.MiniImagenetClassDataset(
            data_path, meta_split=split, transform=ToTensor()
        )
    return torchmeta.datasets.omniglot.OmniglotClassDataset(
        data_path,
        meta_split=split,
        use_vinyals_split=use_vinyals_split,
        transform=Compose([Resize(28), ToTensor()]),
        class_augmentations=[torchmeta.transforms.Rotation([90, 180, 270])] if split == "train" else None,
    )


def _decoded_once(dataset: str, classes: ClassDataset, counts: list[int], data_path: Path):
    """The images of a split in a file, as torchmeta decodes, rotates and resizes them."""
    files = [Path(classes.split_filename), Path(classes.split_filename_labels)]
    status = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    name = files[1].name.removesuffix("_labels.json")

    def decode(number: int) -> np.ndarray:
        images = classes[number]
        try:
            pixels = torch.stack([images[index][0] for index in range(len(images))])
        except DAMAGE as error:
            raise _refusal(dataset, classes.meta_split, data_path, error) from error
        return pixels.mul_(255).round_().byte().numpy()  # exact: ToTensor divided whole numbers by 255

    try:
        return decoded_once(
            data_path / dataset / "cache" / f"{name}.npy", status, counts, INPUT_SHAPES[dataset], decode
        )
    finally:
        classes.close()


def _refusal(dataset: str, split: str, data_path: Path, error: Exception) -> InputError:
    """Damage calls for new files; a lock or a missing permission does not."""
    folder = data_path / dataset
    if isinstance(error, BlockingIOError):
        return InputError(f"cannot read the {split} split in {folder}: another process has it open for writing.")
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(f"cannot read the {split} split in {folder}: {error.strerror}.")
    return InputError(
        f"the {split} split in {folder} is cut short or corrupt ({error}): delete that folder and run "
        f"{prepare_command(dataset, data_path)}."
    )
