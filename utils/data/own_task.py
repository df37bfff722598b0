"""One few-shot task of the user's own: ``<support>/<class>/<image>``, and images to classify at any depth of a folder.

task = load_own_task(Path("photographs"), channels=3, side=84)
queries = list_queries(Path("new_photographs"), task.class_names)
images, unread = read_queries(queries.files, task.preparation)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.data.class_folders import class_name, is_image, list_classes, list_files, no_image
from utils.data.image_folder import survey
from utils.data.image_reader import Preparation, read_image
from utils.draws import shuffled_classes
from utils.errors import InputError


@dataclass(frozen=True)
class OwnTask:
    """A support set of two classes or more, with any number of images each.

    class_names: what the labels 0, 1, ... are, sorted.
    images: uint8 (N, C, H, W), class by class.
    labels: int64 (N,).
    files: of each image, from the support folder on.
    preparation: how the images were made one form, and how others are to be.
    notes: sentences for the user.
    """

    class_names: tuple[str, ...]
    images: Tensor
    labels: Tensor
    files: tuple[str, ...]
    preparation: Preparation
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """A file to classify.

    name: from the query folder on.
    label: its class by the first-level folder that it is in; None: not known.
    """

    path: Path
    name: str
    label: int | None


@dataclass(frozen=True)
class Queries:
    """The files to classify, sorted by name, and sentences for the user."""

    files: tuple[Query, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Unread:
    """A file that is no image, and why it could not be read."""

    name: str
    reason: str


def load_own_task(folder: Path, *, channels: int, side: int) -> OwnTask:
    """Reads a support set.

    Args:
        channels, side: of the images that the meta-cell was trained on; others are converted, which a note says.

    Raises:
        InputError: fewer than two classes, an empty class, two of one name, or something that is no image.
    """
    classes = list_classes(folder)
    if len(classes) < 2:
        raise InputError(f"{folder} holds only one class, {next(iter(classes))}: there must be two at least.")
    paths = [path for files in classes.values() for path in files]
    labels = [label for label, files in enumerate(classes.values()) for _ in files]
    preparation, notes = survey(paths, side, channels)
    images = torch.stack([_to_tensor(read_image(path, preparation)) for path in paths])
    files = tuple(str(path.relative_to(folder)) for path in paths)
    return OwnTask(tuple(classes), images, torch.tensor(labels), files, preparation, notes)


def list_queries(folder: Path, class_names: Sequence[str]) -> Queries:
    """Lists the files to classify; one in a first-level folder that is named like a class has that label.

    Raises:
        InputError: no such folder, or no image in it.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    files, others = [], set()
    for path in list_files(folder):
        parts = path.relative_to(folder).parts
        first = class_name(folder / parts[0]) if len(parts) > 1 else ""
        files.append(Query(path, "/".join(parts), labels.get(first)))
        if files[-1].label is None:
            others.add(first)
    if not any(is_image(query.path) for query in files):
        raise InputError(f"{folder} holds no image: name a folder with images to classify.")
    known = sum(query.label is not None for query in files)
    if known in (0, len(files)):
        return Queries(tuple(files), ())
    places = ", ".join(sorted(f"{name}/" if name else "files in no folder" for name in others))
    note = f"{known} of {len(files)} files in {folder} have a label; no class is named like {places}."
    return Queries(tuple(files), (note,))


def read_queries(queries: Sequence[Query], preparation: Preparation) -> tuple[Tensor, list[Query], list[Unread]]:
    """The images, uint8 (Q, C, H, W), of the files that are images; those files; the others."""
    images, read, unread = [torch.empty(0, *preparation.shape, dtype=torch.uint8)], [], []
    for query in queries:
        try:
            if not is_image(query.path):
                raise no_image(query.path)
            images.append(_to_tensor(read_image(query.path, preparation))[None])
            read.append(query)
        except InputError as error:
            unread.append(Unread(query.name, str(error)))
    return torch.cat(images), read, unread


def stratified_folds(labels: Sequence[int], folds: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Splits a support set ``folds`` times, 2 or more: (the rest, to adapt to; the part left out, to test on).

    Every image is left out once, but for the only one of a class: without it there is no such class.

    Raises:
        InputError: a part would be empty, as no class has so many images.
    """
    members = [indices for indices in shuffled_classes(labels, seed, "folds") if len(indices) > 1]
    by_class = [index for indices in members for index in indices]
    # One after the other: the images of a class, and so the whole, are spread evenly.
    parts = [sorted(by_class[fold::folds]) for fold in range(folds)]
    if not parts or not all(parts):
        raise InputError(f"--folds {folds} is too many: {len(by_class)} images can be left out in turn.")
    return [(sorted(set(range(len(labels))) - set(part)), part) for part in parts]


def _to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.tensor(np.ascontiguousarray(pixels))
