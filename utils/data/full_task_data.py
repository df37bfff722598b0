"""The data of the full task: a published data set or a folder of images, and the halves of its training set.

task = load_full_task("imagefolder", "photographs", seed=21, input_size=64)
weights_half, architecture_half = stratified_halves(task.train.labels, seed=21)
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.data.augmentation import Augmentation
from utils.data.class_folders import list_classes
from utils.data.image_batches import ArrayImages, ImageSet
from utils.data.image_folder import FolderImages, channel_statistics, survey
from utils.data.image_reader import check_input_size
from utils.draws import shuffled_classes
from utils.errors import InputError

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
# A network that is trained from scratch on fewer of a class ends near chance.
FEW_IMAGES = 50


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
        dataset: one of ``FULL_TASK_SETS``.
        data_path: the folder that holds torchvision's folder or archive of the set; for "imagefolder" that of
            ``train/<class>/`` and, if there is one, ``test/<class>/``.
        seed: draws the fifth of ``train/`` that is held out where there is no ``test/``.
        input_size: the side in pixels that images are resized to; None: as they are, which in a folder must be square
            and of one size.
        download: fetch a published set that is absent.

    Raises:
        InputError: the data are absent, damaged or not enough for the task.
    """
    check_input_size(input_size)
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
    by_class = [index for members in shuffled_classes(labels, seed, "halves") for index in members]
    return sorted(by_class[0::2]), sorted(by_class[1::2])


def warning_of_few_images(task: FullTask, data_path: Path | str) -> str | None:
    """What to say before a full task on so few images that a few-shot search would do better; None: enough."""
    images, name = min((count, task.classes[label]) for label, count in Counter(task.train.labels).items())
    if images >= FEW_IMAGES:
        return None
    return (
        f"The class {name} has {images} training images, fewer than {FEW_IMAGES}: a network trained from scratch may "
        f"end near chance. For a few images a class, search from a meta-cell: python onnas.py --meta_cell FILE "
        f"--support {Path(data_path) / 'train'}."
    )


# --- Published sets -------------------------------------------------------------------------------------------------


def _load_published(dataset: str, data_path: Path, input_size: int | None, download: bool) -> FullTask:
    from utils.data.torchvision_sets import load_torchvision_set  # torchvision: 200 MiB that own images do without

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

    preparation, changes = survey([path for path, _ in train + test], input_size)
    train_images, test_images = (FolderImages(tuple(path for path, _ in part), preparation) for part in (train, test))
    mean, std = channel_statistics(train_images.each("training images"))
    for _ in test_images.each("test images"):
        pass  # one that is damaged is refused now, not after the search

    train_set, test_set = (
        ImageSet(images, tuple(label for _, label in part), mean, std, _usual_augmentation(preparation.side))
        for images, part in ((train_images, train), (test_images, test))
    )
    return FullTask("imagefolder", classes, preparation.shape, mean, std, train_set, test_set, (*notes, *changes))


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
    members = shuffled_classes([label for _, label in train], seed, "held out")
    held_out = {index for indices in members for index in indices[: len(indices) // HELD_OUT_SHARE]}
    sizes = {len(indices) for indices in members}
    if len(sizes) == 1:
        count = f"{len(members[0]) // HELD_OUT_SHARE} of {len(members[0])} images of each class"
    else:
        count = f"{len(held_out)} of {len(train)} images"
    note = f"no test/ folder: a fifth of train/, {count}, is held out for testing."
    kept = [image for index, image in enumerate(train) if index not in held_out]
    return kept, [train[index] for index in sorted(held_out)], [note]
