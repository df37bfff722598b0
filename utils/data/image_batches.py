"""Labelled images in batches, normalised and, for training, augmented.

    for images, labels in image_batches(train, indices, 64, epoch_order=(21, "weights", 0), augment=True):
        ...  # float32 (64, C, H, W), normalised; int64 (64,)

Every draw depends only on (seed, purpose, epoch, image), so a resumed run sees the same batches, with any number of
workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from utils.data.augmentation import Augmentation, Draw, cut_out
from utils.data.image_folder import FolderImages
from utils.data.pixels import unit_range
from utils.draws import numpy_generator, torch_generator
from utils.errors import InputError


@dataclass(frozen=True)
class ArrayImages:
    """Images that lie in memory: ``images[index]`` is uint8 (C, side, side).

    Args:
        array: uint8 (N, H, W) or (N, H, W, C).
    """

    array: np.ndarray
    side: int

    def __getitem__(self, index: int) -> np.ndarray:
        pixels = self.array[index]
        if pixels.shape[:2] != (self.side, self.side):
            pixels = np.asarray(Image.fromarray(pixels).resize((self.side, self.side), Image.Resampling.BILINEAR))
        return pixels.reshape(self.side, self.side, -1).transpose(2, 0, 1)


@dataclass(frozen=True)
class ImageSet:
    """Labelled images, and how a network wants them.

    pixels: index -> uint8 (C, H, W).
    labels: of each image, its place among the classes.
    mean, std: of the normalisation, per channel, on the [0, 1] scale.
    """

    pixels: ArrayImages | FolderImages
    labels: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def bits(self) -> int | None:
        """Of integer pixels that image files keep with more than 8; None: there are none."""
        return self.pixels.preparation.bits if isinstance(self.pixels, FolderImages) else None


def image_batches(
    images: ImageSet,
    indices: Sequence[int],
    batch_size: int,
    *,
    epoch_order: tuple[int, str, int] | None = None,
    augment: bool = False,
    cutout: int = 0,
    workers: int = 0,
) -> "ImageBatches":
    """The batches of one pass over some images; a last batch of a single image joins its neighbour.

    Args:
        indices: of the images.
        epoch_order: (seed, purpose, epoch), which every draw depends on: the order and, image by image, the rest.
            None: in the order of ``indices``, which is for testing and admits no augmentation.
        augment: vary the images as the data set's augmentation says.
        cutout: side in pixels of the square that is hidden in each image; 0: none.
        workers: processes that decode; 0: this one.
    """
    order = torch.tensor(indices, dtype=torch.int64)
    if epoch_order is not None:
        seed, purpose, epoch = epoch_order
        order = order[torch.randperm(len(order), generator=torch_generator(seed, f"{purpose}/order", epoch))]
    batches = [batch.tolist() for batch in order.split(batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [batches[-2] + batches[-1]]
    return ImageBatches(_Batch(images, epoch_order, augment, cutout), batches, workers)


@dataclass(frozen=True)
class ImageBatches:
    """Iterates over (images float32 (N, C, H, W), labels int64 (N,)).

    Raises:
        InputError: while iterating, an image cannot be read any more.
    """

    batch: "_Batch"
    batches: list[list[int]]
    workers: int

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        # Without a generator, a DataLoader draws the seeds of its workers from torch's global one.
        loader = DataLoader(
            self.batch, batch_size=None, sampler=self.batches, num_workers=self.workers, generator=torch.Generator()
        )
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch


@dataclass(frozen=True)
class _Batch(Dataset):
    """Indices of a batch -> its images and labels; see :func:`image_batches`."""

    images: ImageSet
    epoch_order: tuple[int, str, int] | None
    augment: bool
    cutout: int

    def __getitem__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor] | InputError:
        try:
            images = torch.stack([self._prepared(index) for index in indices])
        except InputError as error:
            return error  # raised in a worker, it would arrive with the worker's traceback as its text
        return images, torch.tensor([self.images.labels[index] for index in indices])

    def _prepared(self, index: int) -> torch.Tensor:
        pixels = self.images.pixels[index]
        draw = self._draw(index, pixels.shape[-1]) if self.augment or self.cutout else None
        if self.augment:
            pixels = self.images.augmentation.crop_and_flip(pixels, draw)
        image = unit_range(torch.tensor(np.ascontiguousarray(pixels)))
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.images.mean, self.images.std))
        image.sub_(mean).div_(std)
        if self.cutout:
            cut_out(image, self.cutout, draw)
        return image

    def _draw(self, index: int, side: int) -> Draw:
        seed, purpose, epoch = self.epoch_order
        return self.images.augmentation.draw(side, numpy_generator(seed, f"{purpose}/augmentation", epoch, index))
