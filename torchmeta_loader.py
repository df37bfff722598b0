"""Few-shot task distributions over torchmeta: Omniglot, miniImageNet, synthetic glyphs, a folder of images.

    tasks = few_shot_tasks("omniglot", "train", ways=5, shots=1, queries=15, seed=21, data_path="data")
    for episode in episodes(tasks, range(1000)):
        episode.support, episode.support_labels  # float32 (5, 1, 28, 28) in [0, 1], int64 (5,)

torchmeta draws its tasks from global generators. Here every draw depends only on (seed, what it is for, episode), so
episode 7 is the same task whatever ran before it, and in whichever process it is loaded.

torchmeta decodes every image of every task. Here a split is decoded once into a file, from which episodes are read by
index: the same images, labels and order.

Run as a script, it turns a manual download into what torchmeta reads:

    python torchmeta_loader.py --prepare omniglot|miniimagenet --source FILE_OR_DIR --data_path DIR
"""

from utils.run.start import begin

if __name__ == "__main__":
    begin("torchmeta_loader.py")  # before what takes seconds to import

import argparse
import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate, get_worker_info

from utils.data import glyphs, torchmeta_sets
from utils.data.episode import Episode
from utils.data.few_shot_folder import folder_shape, folder_split
from utils.data.few_shot_split import FewShotSplit, class_name
from utils.data.labelled_images import LabelledImages
from utils.data.prepare import WEBSITE, prepare
from utils.data.torchmeta_mend import torchmeta
from utils.draws import derive_seed, numpy_generator
from utils.errors import InputError
from utils.run.cli import ArgumentParser, folder, run

ClassDataset = torchmeta.utils.data.ClassDataset
ConcatTask = torchmeta.utils.data.ConcatTask
Categorical = torchmeta.transforms.Categorical

# Channels, height, width; a folder of images has its own.
INPUT_SHAPES = {**torchmeta_sets.SHAPES, "synthetic": glyphs.SHAPE}
LABELLED_GLYPHS = 200  # classes of synthetic glyphs in a labelled set
DATASETS = (*INPUT_SHAPES, "imagefolder")


def few_shot_tasks(
    dataset: str,
    split: str,
    *,
    ways: int,
    shots: int,
    queries: int,
    seed: int,
    data_path: Path | str,
    use_vinyals_split: bool = True,
    download: bool = False,
    input_size: int | None = None,
    channels: int | None = None,
) -> "FewShotTasks":
    """The few-shot tasks over the classes of one split.

    Args:
        dataset: one of ``DATASETS``.
        split: "train", "val" or "test"; they share no class.
        ways: classes a task.
        shots: support images a class.
        queries: query images a class.
        seed: of every draw.
        data_path: the folder that holds ``omniglot/`` and ``miniimagenet/``; of "imagefolder" that of the images, see
            :func:`utils.data.few_shot_folder.folder_split`; "synthetic" reads no files.
        use_vinyals_split: Omniglot's 1028/172/423 characters, else its 964 background characters for "train", its 659
            evaluation characters for "test", none for "val".
        download: fetch what is absent.
        input_size, channels: of "imagefolder": the side in pixels, and 1 or 3; None: as the images are.

    Raises:
        InputError: the data are absent, unreadable or damaged, or hold too few classes or images for such tasks.
    """
    place = Path(data_path).expanduser()
    if dataset == "synthetic":
        source = glyphs.glyph_split(split, seed)
    elif dataset == "imagefolder":
        source = folder_split(place, split, seed=seed, input_size=input_size, channels=channels)
    else:
        source = torchmeta_sets.torchmeta_split(dataset, split, place, use_vinyals_split, download)
    if ways > len(source.classes):
        raise InputError(f"--n {ways} is too many: the {split} split of {dataset} has {len(source.classes)} classes.")
    fewest = int(np.argmin(source.counts))
    if shots + queries > source.counts[fewest]:
        images, name = source.counts[fewest], class_name(source.classes, fewest)
        raise InputError(
            f"{shots} shots and {queries} queries a class are too many: the class {name} of {dataset} has {images} "
            f"images, so --q and the shots (--n_train in training, --k in testing) may add up to {images}."
        )
    return FewShotTasks(source, ways=ways, shots=shots, queries=queries, seed=seed)


def input_shape(dataset: str, data_path: Path | str, input_size: int | None = None) -> tuple[int, int, int]:
    """The (channels, height, width) of a data set's images, which a folder of images is looked through for."""
    if dataset == "imagefolder":
        return folder_shape(Path(data_path).expanduser(), input_size)
    return INPUT_SHAPES[dataset]


def held_out_split(dataset: str, use_vinyals_split: bool) -> str:
    """The split to watch training on: "val", but "test" for Omniglot's background/evaluation split, without a "val"."""
    return "test" if dataset == "omniglot" and not use_vinyals_split else "val"


def content_digest(*splits: "FewShotTasks") -> str | None:
    """The SHA-256 of what tasks are drawn from, wherever it lies; None: the seed settles the glyphs.

    Of Omniglot and miniImageNet, these are the classes' names and numbers of images, in order: the images, hundreds of
    MiB, are not read for it. Of a folder of images, the pixels count too.
    """
    contents = [tasks.content for tasks in splits]
    return None if None in contents else hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def episodes(tasks: "FewShotTasks", numbers: Sequence[int], workers: int = 0) -> Iterator[Episode]:
    """Yields exactly these episodes, in order.

    Args:
        workers: processes that load ahead; 0: this one loads each when it is asked for.

    Raises:
        InputError: an image cannot be read any more.
    """
    loader = DataLoader(
        _Episodes(tasks),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        worker_init_fn=_open_own_file,
        generator=torch.Generator(),  # without one, it draws the seeds of its workers from torch's global one
    )
    for episode in loader:
        if isinstance(episode, InputError):
            raise episode
        yield episode


def episode_loader(tasks: "FewShotTasks", episodes: Sequence[int], batch_size: int = 1, workers: int = 0) -> DataLoader:
    """Loads exactly these episodes, in order (the old form of :func:`episodes`, until all callers have gone over).

    Each batch is ``{"support": [images, labels], "query": [images, labels]}``, ordered class by class: images float32
    (batch, ways * images a class, channels, height, width) in [0, 1], labels int64 (batch, ways * images a class).
    The last batch may be smaller.
    """
    return DataLoader(
        _Episodes(tasks),
        batch_size=batch_size,
        sampler=episodes,
        num_workers=workers,
        worker_init_fn=_open_own_file,
        generator=torch.Generator(),  # without one, it draws the seeds of its workers from torch's global one
        collate_fn=_old_batch,
    )


def _old_batch(loaded: list[Episode]) -> dict[str, list[torch.Tensor]]:
    parts = {
        "support": [(episode.support, episode.support_labels) for episode in loaded],
        "query": [(episode.query, episode.query_labels) for episode in loaded],
    }
    return {part: default_collate(pairs) for part, pairs in parts.items()}


class FewShotTasks(torchmeta.utils.data.CombinationMetaDataset):
    """The ways-way tasks over a data set of classes, indexed by episode.

    ``tasks[7]["support"]`` is a data set, by torchmeta alone; ``tasks.load(7)`` the same as tensors.

    Attributes:
        shape, size, content, images, notes: see :class:`FewShotSplit`.

    Args:
        source: the classes.
        ways: classes a task.
        shots: support images a class.
        queries: query images a class.
        seed: of every draw.
    """

    def __init__(self, source: FewShotSplit, *, ways: int, shots: int, queries: int, seed: int):
        splitter = torchmeta.transforms.ClassSplitter(num_support_per_class=shots, num_query_per_class=queries)
        super().__init__(source.classes, ways, target_transform=Categorical(ways), dataset_transform=splitter)
        self.draw_seed, self.images, self.counts = seed, source.images, source.counts
        self.shape, self.size, self.content, self.notes = source.shape, source.size, source.content, source.notes

    def __getitem__(self, episode: int) -> OrderedDict:
        """The task of an episode: {"support": data set, "query": data set}."""
        self._seed_splitter(episode)
        return super().__getitem__(tuple(self._classes(episode)))

    def load(self, number: int) -> Episode:
        """The episode of this number, as tensors."""
        if self.images is None:
            parts = {part: default_collate(list(images)) for part, images in self[number].items()}
        else:
            parts = self._read(number)
        return Episode(number, *parts["support"], *parts["query"], tuple(self.class_names(number)))

    def labelled(self) -> LabelledImages:
        """The images of all classes as one labelled set; of synthetic glyphs, without number, those of the first."""
        if self.images is not None:
            return LabelledImages(self.images.counts, self.images.read)

        def read(classes: Sequence[int], numbers: Sequence[int]) -> torch.Tensor:
            return torch.stack([self.dataset[label][number][0] for label, number in zip(classes, numbers, strict=True)])

        drawn = self.content is None
        return LabelledImages(list(self.counts)[:1] * LABELLED_GLYPHS if drawn else self.counts, read)

    def _read(self, episode: int) -> dict[str, list[torch.Tensor]]:
        """{"support": [images, labels], "query": ...}, from the images that were decoded once."""
        classes = self._classes(episode)
        counts = [self.images.counts[number] for number in classes]
        # torchmeta's splitter asks for no image: it draws places in the joined classes.
        sizes = [_ClassSize(number, count) for number, count in zip(classes, counts, strict=True)]
        self._seed_splitter(episode)
        picked = self.dataset_transform.get_indices(ConcatTask(sizes, self.num_classes_per_task))
        ends = np.cumsum(counts)
        task = {}
        for part, places in picked.items():
            labels = np.searchsorted(ends, places, side="right")
            numbers = places - (ends - counts)[labels]
            images = self.images.read([classes[label] for label in labels], numbers.tolist())
            task[part] = [images, torch.from_numpy(labels)]
        return task

    def _seed_splitter(self, episode: int) -> None:
        """torchmeta's splitter picks a class's images by the one seed and orders them by the other."""
        splitter_seed = derive_seed(self.draw_seed, f"images/{self.meta_split}", episode) % 2**32
        self.dataset_transform.random_state_seed = splitter_seed
        self.dataset_transform.seed(splitter_seed)

    def _classes(self, episode: int) -> list[int]:
        draws = numpy_generator(self.draw_seed, f"classes/{self.meta_split}", episode)
        return draws.choice(len(self.dataset), self.num_classes_per_task, replace=False).tolist()

    def class_names(self, episode: int) -> list[str]:
        """What the labels 0, 1, ... of an episode are; a rotated class has the upright one's name."""
        return [class_name(self.dataset, number) for number in self._classes(episode)]

    def _copy_categorical(self, transform: Categorical) -> Categorical:
        """Labels by position: the classes come in random order, and torchmeta would ask torch's global generator."""
        labels = super()._copy_categorical(transform)
        labels._labels = list(range(self.num_classes_per_task))
        return labels

    def __getstate__(self) -> dict:
        """An open HDF5 file does not travel to another process; it is opened there when first read."""
        return {**self.__dict__, "dataset": _without_open_file(self.dataset)}


class _ClassSize(torchmeta.utils.data.Dataset):
    """What torchmeta's splitter needs of a class: its index and the number of its images."""

    def __init__(self, index: int, size: int):
        super().__init__(index)
        self._size = size

    def __len__(self) -> int:
        return self._size


class _Episodes(torch.utils.data.Dataset):
    """From a number to its episode."""

    def __init__(self, tasks: FewShotTasks):
        self.tasks = tasks

    def __getitem__(self, number: int) -> Episode | InputError:
        try:
            return self.tasks.load(number)
        except InputError as error:
            return error  # raised in a worker, it would arrive with the worker's traceback as its text


def _without_open_file(class_dataset: ClassDataset) -> ClassDataset:
    class_dataset = copy.copy(class_dataset)
    class_dataset._data = class_dataset._data_file = None
    return class_dataset


def _open_own_file(worker: int) -> None:
    """Runs in each worker: a file opened before the fork would be shared with the parent."""
    tasks = get_worker_info().dataset.tasks
    tasks.dataset = _without_open_file(tasks.dataset)


def main() -> None:
    parser = ArgumentParser(
        prog="torchmeta_loader.py", description="Turns a manual download into the files that torchmeta reads."
    )
    required = {"required": True, "default": argparse.SUPPRESS}
    parser.add_argument("--prepare", choices=tuple(WEBSITE), help="the data set", **required)
    parser.add_argument(
        "--source",
        type=folder,
        metavar="FILE_OR_DIR",
        help="the folder of the downloaded files, or one of them, which is read with the others of its form: "
        "Omniglot's two zips or their unpacked folders; miniImageNet as train/val/test tars, folders of classes, or "
        "mini-imagenet-cache-<split>.pkl files",
        **required,
    )
    parser.add_argument("--data_path", type=folder, default=Path("data"), metavar="DIR", help="where the data go")
    args = parser.parse_args()

    place = args.data_path / args.prepare
    found = prepare(args.prepare, args.source, args.data_path)
    print(f"{place} is ready: {found}." if found else f"{place} is prepared already; nothing was changed.")


if __name__ == "__main__":
    run(main, "torchmeta_loader.py", "nothing half-written is left.")
