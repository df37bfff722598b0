"""Writes Omniglot and miniImageNet as the files that torchmeta reads.

torchmeta's own preparation needs its own download, unpacks archives and lists files in the order of the file system.
Here a source (zips, tars, folders or pickles) is read as a stream, checked, and written in sorted order, so that the
same source gives the same files on every machine:

    data.hdf5                images_background|images_evaluation / alphabet / character: uint8 (20, 105, 105)
    {train,test}_labels.json, vinyals_{train,val,test}_labels.json: [[group, alphabet, character], ...]

    {split}_data.hdf5        datasets / class: uint8 (images, 84, 84, 3)
    {split}_labels.json      [class, ...]
"""

import io
import json
from pathlib import Path

import h5py
import numpy as np

from utils.data.archives import ArchivedImages
from utils.data.image_reader import Preparation, opened, prepare, read_image
from utils.data.pickled_images import PickledImages
from utils.data.prepared import SPLITS
from utils.data.torchmeta_mend import torchmeta
from utils.errors import InputError
from utils.run.progress import progress_bar

OMNIGLOT_GROUPS = {"images_background": "train", "images_evaluation": "test"}
DRAWINGS_PER_CHARACTER = 20
DRAWING_SIDE = 105
PHOTOGRAPH = Preparation(channels=3, side=84)


def write_omniglot(parts: dict[str, Path], folder: Path) -> str:
    """Writes the files of Omniglot.

    Args:
        parts: the zip or the unpacked folder of each of its two groups.

    Returns:
        what was found.

    Raises:
        InputError: a source is damaged, or a character has not 20 drawings.
    """
    present = {}
    with h5py.File(folder / "data.hdf5", "w") as file:
        for group, path in parts.items():
            images = ArchivedImages(path, top=group, depth=2, decode=_decode_drawing)
            for character, drawings in images.counts.items():
                if drawings != DRAWINGS_PER_CHARACTER:
                    raise InputError(f"{path} holds {drawings} drawings of {character}, not {DRAWINGS_PER_CHARACTER}.")
            _write_images(file.create_group(group), images, (DRAWING_SIDE, DRAWING_SIDE), group)
            present[group] = [(group, *name.split("/")) for name in images.counts]
            _write_labels(folder / f"{OMNIGLOT_GROUPS[group]}_labels.json", present[group])
    everything = {character for characters in present.values() for character in characters}
    missing, sizes = 0, {}
    for split in SPLITS:
        listed = vinyals_characters(split)
        kept = [character for character in listed if character in everything]
        _write_labels(folder / f"vinyals_{split}_labels.json", kept)
        missing += len(listed) - len(kept)
        sizes[split] = len(kept)
    groups = " + ".join(f"{len(characters)} {group}" for group, characters in present.items())
    note = f"; the source lacks {missing} of Omniglot's characters" if missing else ""
    return f"{groups} characters, Vinyals' split {_sizes(sizes)}{note}"


def write_miniimagenet(parts: dict[str, Path], folder: Path) -> str:
    """Writes the files of miniImageNet.

    Args:
        parts: the tar, the folder or the pickle of each split, or the archive of all pickles.

    Returns:
        what was found.

    Raises:
        InputError: a source is damaged, or two splits share a class.
    """
    owner, sizes = {}, {}
    for split, path in parts.items():
        if path.is_file() and path.name.startswith("mini-imagenet"):
            images = PickledImages(path, split)
        else:
            images = ArchivedImages(path, top=split, depth=1, decode=_decode_photograph)
        for name in images.counts:
            if name in owner:
                raise InputError(f"{path} holds the class {name}, which {parts[owner[name]]} holds for another split.")
            owner[name] = split
        with h5py.File(folder / f"{split}_data.hdf5", "w") as file:
            _write_images(file.create_group("datasets"), images, (84, 84, 3), split)
        _write_labels(folder / f"{split}_labels.json", list(images.counts))
        sizes[split] = len(images.counts)
    return f"{_sizes(sizes)} classes"


def vinyals_characters(split: str) -> list[tuple[str, str, str]]:
    """The (group, alphabet, character) of Vinyals' split, sorted, as torchmeta ships them."""
    listed = torchmeta.datasets.utils.get_asset("omniglot", f"{split}.json")
    return sorted(
        (f"images_{group}", alphabet, character)
        for group, alphabets in listed.items()
        for alphabet, characters in alphabets.items()
        for character in characters
    )


def _decode_drawing(content: bytes, name: str) -> np.ndarray:
    """Omniglot's black-on-white PNG -> white on black, uint8 (105, 105), as torchmeta stores it."""
    with opened(io.BytesIO(content), name) as image:
        if image.size != (DRAWING_SIDE, DRAWING_SIDE):
            size = f"{image.width}x{image.height}"
            raise InputError(f"{name} has {size} pixels, not {DRAWING_SIDE}x{DRAWING_SIDE} as Omniglot's drawings.")
        return 255 - prepare(image, Preparation(channels=1, side=DRAWING_SIDE), name)[0]


def _decode_photograph(content: bytes, name: str) -> np.ndarray:
    """An image of any size -> RGB, uint8 (84, 84, 3)."""
    return read_image(io.BytesIO(content), PHOTOGRAPH, name).transpose(1, 2, 0)


def _write_images(group: h5py.Group, images: ArchivedImages | PickledImages, shape: tuple[int, ...], title: str):
    # Space is set aside in sorted order, not in the order of the source, so that the file is the same for any order.
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    datasets = {
        name: group.create_dataset(name, (count, *shape), dtype="uint8", dcpl=layout)
        for name, count in images.counts.items()
    }
    for name, row, image in progress_bar(images.read(), title, "image", 0, sum(images.counts.values())):
        datasets[name][row] = image


def _write_labels(path: Path, labels: list) -> None:
    path.write_text(json.dumps(labels))


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{size} {split}" for split, size in sizes.items())
