"""The classes of Omniglot and miniImageNet as torchmeta decodes, rotates and resizes their images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import Compose, Resize, ToTensor

from utils.data.prepared import prepare_command
from utils.data.torchmeta_mend import torchmeta
from utils.errors import InputError

# What h5py, PIL and torchmeta raise for files that are cut short or corrupt.
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError)


class TorchmetaClasses:
    """Images by class and number, decoded when they are asked for; of Omniglot's train split rotated classes as well.

    Attributes:
        classes: torchmeta's data set of classes.
        counts: images of each class.

    Raises:
        InputError: the files cannot be read or are damaged.
    """

    def __init__(self, dataset: str, split: str, data_path: Path, use_vinyals_split: bool):
        self._place = dataset, split, data_path, use_vinyals_split
        try:
            self.classes = _open_classes(*self._place)
            forms = 1 + len(self.classes.class_augmentations)  # a class as it is, and rotated
            names = ["/".join(label) if dataset == "omniglot" else label for label in self.classes.labels]
            self.counts = [len(self.classes.data[name]) for name in names] * forms
        except DAMAGE as error:
            raise self._refusal(error) from error
        self.classes.close()

    def read(self, classes: Sequence[int], numbers: Sequence[int]) -> torch.Tensor:
        """Image ``numbers[i]`` of class ``classes[i]``, for each i: uint8 (images, channels, height, width)."""
        try:
            images = [self.classes[index][number][0] for index, number in zip(classes, numbers, strict=True)]
            return torch.stack(images).mul_(255).round_().byte()  # exact: ToTensor divided whole numbers by 255
        except DAMAGE as error:
            raise self._refusal(error) from error
        finally:
            self.classes.close()  # an open HDF5 file would be shared with the workers of a loader

    def decode(self, index: int) -> np.ndarray:
        """All images of a class, uint8 (images, channels, height, width)."""
        return self.read([index] * self.counts[index], range(self.counts[index])).numpy()

    def __getstate__(self) -> dict:
        """torchmeta's data sets do not travel to another process; they are made there."""
        return {"place": self._place}

    def __setstate__(self, state: dict) -> None:
        self.__init__(*state["place"])

    def _refusal(self, error: Exception) -> InputError:
        """Damage calls for new files; a lock or a missing permission does not."""
        dataset, split, data_path, _ = self._place
        folder = data_path / dataset
        if isinstance(error, BlockingIOError):
            return InputError(f"cannot read the {split} split in {folder}: another process has it open for writing.")
        if isinstance(error, OSError) and error.errno is not None:
            return InputError(f"cannot read the {split} split in {folder}: {error.strerror}.")
        return InputError(
            f"the {split} split in {folder} is cut short or corrupt ({error}): delete that folder and run "
            f"{prepare_command(dataset, data_path)}."
        )


def _open_classes(
    dataset: str, split: str, data_path: Path, use_vinyals_split: bool
) -> "torchmeta.utils.data.ClassDataset":
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
