"""The data of the full task: a published data set or a folder of images, its halves and its batches.

    task = load_full_task("imagefolder", "photographs", seed=21, input_size=64)
    weights_half, architecture_half = stratified_halves(task.train.labels, seed=21)
    for images, labels in image_batches(task.train, weights_half, 64, epoch_order=(21, "weights", 0), augment=True):
        ...  # float32 (64, C, H, W), normalised; int64 (64,)

Every draw depends only on (seed, purpose, epoch, image), so a resumed run sees the same batches, with any number of
workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from utils.data.augmentation import Augmentation, Draw, cut_out
from utils.data.image_folder import SMALLEST_SIDE, FolderImages, Header, channel_statistics, list_classes, read_header
from utils.data.torchvision_sets import load_torchvision_set
from utils.draws import numpy_generator, torch_generator
from utils.errors import InputError

DATASETS = ("cifar10", "cifar100", "mnist", "fashionmnist", "imagefolder")
# Mean and standard deviation of each channel of the training images, on the [0, 1] scale.
NORMALISATION = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashionmnist": ((0.2860,), (0.3530,)),
}
# Both halves of the training set need an image of each class.
FEWEST_IMAGES = 2
HELD_OUT_SHARE = 5  # one of so many images


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


@dataclass(frozen=True)
class FullTask:
    """A classification task with all of its data.

    shape: channels, height, width of an image.
    mean, std: of the normalisation, per channel, on the [0, 1] scale.
    notes: sentences that the user should read.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: ImageSet
    test: ImageSet
    notes: tuple[str, ...]


def load_full_task(
    dataset: str, data_path: Path | str, *, seed: int, input_size: int | None = None, download: bool = False
) -> FullTask:
    """Loads a task and checks all of it.

    Args:
        dataset: one of ``DATASETS``.
        data_path: the folder that holds torchvision's folder or archive of the set; for "imagefolder" that of
            ``train/<class>/`` and, if there is one, ``test/<class>/``.
        seed: draws the fifth of ``train/`` that is held out where there is no ``test/``.
        input_size: the side in pixels that images are resized to; None: as they are, which in a folder must be square
            and of one size.
        download: fetch a published set that is absent.

    Raises:
        InputError: the data are absent, damaged or not enough for the task.
    """
    if input_size is not None and input_size < SMALLEST_SIDE:
        raise InputError(f"--input_size {input_size} is too small: {SMALLEST_SIDE} pixels is the least.")
    folder = Path(data_path).expanduser()
    if dataset == "imagefolder":
        return _load_folder(folder, seed, input_size)
    return _load_published(dataset, folder, input_size, download)


def stratified_halves(labels: Sequence[int], seed: int) -> tuple[list[int], list[int]]:
    """Splits the training set into the weights' half and the architecture's half.

    Each class, and the whole, is split in equal parts, up to one image.

    Returns:
        the indices of both halves, in increasing order.
    """
    by_class = [index for members in _shuffled_classes(labels, seed, "halves") for index in members]
    return sorted(by_class[0::2]), sorted(by_class[1::2])


def _shuffled_classes(labels: Sequence[int], seed: int, purpose: str) -> list[list[int]]:
    """The indices of each class, in random order."""
    labels = np.asarray(labels)
    return [
        numpy_generator(seed, purpose, int(label)).permutation(np.flatnonzero(labels == label)).tolist()
        for label in np.unique(labels)
    ]


# --- Published sets -------------------------------------------------------------------------------------------------


def _load_published(dataset: str, data_path: Path, input_size: int | None, download: bool) -> FullTask:
    train, test = load_torchvision_set(dataset, data_path, download)
    mean, std = NORMALISATION[dataset]
    side = input_size or train.data.shape[1]
    # A mirrored digit is another sign, or none.
    augmentation = Augmentation(padding=2, flip=False) if dataset == "mnist" else _usual_augmentation(side)
    train_set, test_set = (
        ImageSet(
            ArrayImages(np.asarray(part.data), side), tuple(np.asarray(part.targets).tolist()), mean, std, augmentation
        )
        for part in (train, test)
    )
    return FullTask(dataset, tuple(train.classes), (len(mean), side, side), mean, std, train_set, test_set, notes=())


def _usual_augmentation(side: int) -> Augmentation:
    """CIFAR's, 4 pixels of padding for a side of 32, in proportion."""
    return Augmentation(padding=side // 8, flip=True)


# --- Image folders --------------------------------------------------------------------------------------------------

LabelledPaths = list[tuple[Path, int]]


def _load_folder(folder: Path, seed: int, input_size: int | None) -> FullTask:
    if not (folder / "train").is_dir():
        raise InputError(f"--data_path {folder} holds no train/ folder: images lie in {folder}/train/<class>/.")
    by_class = list_classes(folder / "train")
    has_test = (folder / "test").is_dir()
    _check_classes(folder / "train", by_class, HELD_OUT_SHARE if not has_test else FEWEST_IMAGES)
    classes = tuple(by_class)
    train = _labelled(by_class, classes)
    if has_test:
        test, notes = _read_test_folder(folder / "test", classes)
    else:
        train, test, notes = _hold_out(train, seed)

    headers = [read_header(path) for path, _ in train + test]
    side = input_size or _common_side(headers)
    channels = 1 if all(header.grey for header in headers) else 3
    stretched = sum(header.width != header.height for header in headers)
    if stretched:
        notes.append(f"{stretched} of {len(headers)} images are not square: they are stretched to {side}x{side}.")
    train_images, test_images = (
        FolderImages(tuple(path for path, _ in part), channels, side) for part in (train, test)
    )
    mean, std = channel_statistics(train_images.each("training images"))
    for _ in test_images.each("test images"):
        pass  # one that is damaged is refused now, not after the search

    train_set, test_set = (
        ImageSet(images, tuple(label for _, label in part), mean, std, _usual_augmentation(side))
        for images, part in ((train_images, train), (test_images, test))
    )
    return FullTask("imagefolder", classes, (channels, side, side), mean, std, train_set, test_set, tuple(notes))


def _check_classes(folder: Path, by_class: dict[str, list[Path]], fewest: int) -> None:
    if len(by_class) < 2:
        raise InputError(f"{folder} holds only one class, {next(iter(by_class))}: there must be two at least.")
    for name, files in by_class.items():
        if len(files) >= fewest:
            continue
        count = f"{folder / name} holds {len(files)} image{'s' if len(files) > 1 else ''}"
        if fewest == FEWEST_IMAGES:
            raise InputError(f"{count}: a class needs {fewest}, one for each half of the training set.")
        raise InputError(f"{count}: a class needs {fewest}, as without a test/ folder a fifth of them is held out.")


def _labelled(by_class: dict[str, list[Path]], classes: tuple[str, ...]) -> LabelledPaths:
    labels = {name: label for label, name in enumerate(classes)}
    return [(path, labels[name]) for name, files in by_class.items() for path in files]


def _read_test_folder(folder: Path, classes: tuple[str, ...]) -> tuple[LabelledPaths, list[str]]:
    by_class = list_classes(folder)
    for name in by_class:
        if name not in classes:
            raise InputError(f"{folder / name} is a class that {folder.with_name('train')} does not have.")
    absent = [name for name in classes if name not in by_class]
    notes = [f"test/ lacks {len(absent)} of {len(classes)} classes: {', '.join(absent)}."] if absent else []
    return _labelled(by_class, classes), notes


def _hold_out(train: LabelledPaths, seed: int) -> tuple[LabelledPaths, LabelledPaths, list[str]]:
    """Moves a fifth of each class, rounded down, from the training to the test set."""
    members = _shuffled_classes([label for _, label in train], seed, "held out")
    held_out = {index for indices in members for index in indices[: len(indices) // HELD_OUT_SHARE]}
    sizes = {len(indices) for indices in members}
    if len(sizes) == 1:
        count = f"{len(members[0]) // HELD_OUT_SHARE} of {len(members[0])} images of each class"
    else:
        count = f"{len(held_out)} of {len(train)} images"
    note = f"no test/ folder: a fifth of train/, {count}, is held out for testing."
    kept = [image for index, image in enumerate(train) if index not in held_out]
    return kept, [train[index] for index in sorted(held_out)], [note]


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


# --- Batches --------------------------------------------------------------------------------------------------------


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
        image = torch.tensor(np.ascontiguousarray(pixels), dtype=torch.float32).div_(255)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.images.mean, self.images.std))
        image.sub_(mean).div_(std)
        if self.cutout:
            cut_out(image, self.cutout, draw)
        return image

    def _draw(self, index: int, side: int) -> Draw:
        seed, purpose, epoch = self.epoch_order
        return self.images.augmentation.draw(side, numpy_generator(seed, f"{purpose}/augmentation", epoch, index))
