"""Few-shot task distributions over torchmeta: Omniglot, miniImageNet, synthetic glyphs.

    tasks = few_shot_tasks("omniglot", "train", ways=5, shots=1, queries=15, seed=21, data_path="data")
    for episode in episodes(tasks, range(1000)):
        episode.support, episode.support_labels  # float32 (5, 1, 28, 28) in [0, 1], int64 (5,)

torchmeta draws its tasks from global generators. Here every draw depends only on (seed, what it is for, episode), so
episode 7 is the same task whatever ran before it, in whatever batch it comes and in whichever process it is loaded.

torchmeta decodes every image of every task. Here a split is decoded once, by torchmeta, into a file beside the data set
(its folder ``cache/``) from which episodes are read by index: the same images, labels and order.

Run as a script, it turns a manual download into what torchmeta reads:

    python torchmeta_loader.py --prepare omniglot|miniimagenet --source FILE_OR_DIR --data_path DIR
"""

import argparse
import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, default_collate, get_worker_info
from torchvision.transforms import Compose, Resize, ToTensor

from utils.data.class_images import ClassImages, open_class_images
from utils.data.episode import Episode
from utils.data.prepare import WEBSITE, download, is_prepared, prepare, prepare_command
from utils.data.torchmeta_mend import torchmeta
from utils.draws import derive_seed, numpy_generator
from utils.errors import InputError, WriteError
from utils.run.cli import ArgumentParser, run

ClassDataset = torchmeta.utils.data.ClassDataset
ConcatTask = torchmeta.utils.data.ConcatTask
Categorical = torchmeta.transforms.Categorical

# What h5py, PIL and torchmeta raise for files that are cut short or corrupt.
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError)

# Channels, height, width.
INPUT_SHAPES = {"omniglot": (1, 28, 28), "miniimagenet": (3, 84, 84), "synthetic": (1, 28, 28)}


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
) -> "FewShotTasks":
    """The few-shot tasks over the classes of one split.

    Args:
        dataset: a key of ``INPUT_SHAPES``.
        split: "train", "val" or "test"; they share no class.
        ways: classes a task.
        shots: support images a class.
        queries: query images a class.
        seed: of every draw.
        data_path: the folder that holds ``omniglot/`` and ``miniimagenet/``; "synthetic" reads no files.
        use_vinyals_split: Omniglot's 1028/172/423 characters, else its 964 background characters for "train", its 659
            evaluation characters for "test", none for "val".
        download: fetch what is absent.

    Raises:
        InputError: the data are absent or damaged, or hold too few classes or images for such tasks.
    """
    folder = Path(data_path).expanduser()
    if dataset == "synthetic":
        class_dataset, counts = SyntheticGlyphs(seed, split), [DRAWINGS_PER_GLYPH]
        size = SplitSize(split, GLYPHS_PER_SPLIT, GLYPHS_PER_SPLIT * DRAWINGS_PER_GLYPH)
    else:
        class_dataset, counts = _prepared_classes(dataset, split, folder, use_vinyals_split, download)
        forms = 1 + len(class_dataset.class_augmentations)  # a class as it is, and rotated
        size = SplitSize(split, len(counts) // forms, sum(counts) // forms)
    fewest = min(counts, default=0)
    if ways > len(class_dataset):
        raise InputError(f"--n {ways} is too many: the {split} split of {dataset} has {len(class_dataset)} classes.")
    if shots + queries > fewest:
        raise InputError(
            f"{shots} shots and {queries} queries a class are too many: a class of {dataset} has {fewest} "
            f"images, so --q and the shots (--n_train in training, --k in testing) may add up to {fewest}."
        )
    tasks = FewShotTasks(class_dataset, ways=ways, shots=shots, queries=queries, seed=seed, size=size)
    if dataset != "synthetic":
        tasks.content = (class_dataset.labels, counts)
        try:
            tasks.images = _decoded_once(dataset, class_dataset, counts, folder)
        except WriteError as error:
            tasks.notes += (f"{str(error).rstrip('.')}: the images of {split} are decoded anew for every task.",)
    return tasks


def held_out_split(dataset: str, use_vinyals_split: bool) -> str:
    """The split to watch training on: "val", but "test" for Omniglot's background/evaluation split, without a "val"."""
    return "test" if dataset == "omniglot" and not use_vinyals_split else "val"


def content_digest(*splits: "FewShotTasks") -> str | None:
    """The SHA-256 of what tells the splits' data from others, wherever they lie; None: the seed settles the glyphs.

    What tells them are the classes' names and numbers of images, in the order from which tasks are drawn. The images
    themselves, hundreds of MiB, are not read for it.
    """
    told = [tasks.content for tasks in splits]
    return None if None in told else hashlib.sha256(json.dumps(told).encode()).hexdigest()


def episodes(tasks: "FewShotTasks", numbers: Sequence[int], workers: int = 0) -> Iterator[Episode]:
    """Yields exactly these episodes, in order.

    Args:
        workers: processes that load ahead; 0: this one loads each when it is asked for.
    """
    loader = DataLoader(
        _Episodes(tasks),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        worker_init_fn=_open_own_file,
        generator=torch.Generator(),  # without one, it draws the seeds of its workers from torch's global one
    )
    return iter(loader)


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


@dataclass(frozen=True)
class SplitSize:
    """How many classes and images a split has, which tells a subset; rotated classes do not count."""

    split: str
    classes: int
    images: int


class FewShotTasks(torchmeta.utils.data.CombinationMetaDataset):
    """The ways-way tasks over a data set of classes, indexed by episode.

    ``tasks[7]["support"]`` is a data set, by torchmeta alone; ``tasks.load(7)`` the same as tensors.

    Attributes:
        content: the names of the classes and the number of images of each; None: they are drawn, not read.
        images: the data set's images, decoded once; None: an image is decoded, or drawn, when it is asked for.
        notes: sentences for the user.

    Args:
        class_dataset: torchmeta's data set of classes; an item is the data set of one class.
        ways: classes a task.
        shots: support images a class.
        queries: query images a class.
        seed: of every draw.
        size: of the split.
    """

    def __init__(self, class_dataset: ClassDataset, *, ways: int, shots: int, queries: int, seed: int, size: SplitSize):
        splitter = torchmeta.transforms.ClassSplitter(num_support_per_class=shots, num_query_per_class=queries)
        super().__init__(class_dataset, ways, target_transform=Categorical(ways), dataset_transform=splitter)
        self.draw_seed, self.size = seed, size
        self.content: tuple[list, list[int]] | None = None
        self.images: ClassImages | None = None
        self.notes: tuple[str, ...] = ()

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
        if isinstance(self.dataset, SyntheticGlyphs):
            return [f"glyph {number}" for number in self._classes(episode)]
        names = self.dataset.labels
        labels = (names[number % len(names)] for number in self._classes(episode))
        return [label if isinstance(label, str) else "/".join(label) for label in labels]

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

    def __getitem__(self, number: int) -> Episode:
        return self.tasks.load(number)


def _without_open_file(class_dataset: ClassDataset) -> ClassDataset:
    class_dataset = copy.copy(class_dataset)
    class_dataset._data = class_dataset._data_file = None
    return class_dataset


def _open_own_file(worker: int) -> None:
    """Runs in each worker: a file opened before the fork would be shared with the parent."""
    tasks = get_worker_info().dataset.tasks
    tasks.dataset = _without_open_file(tasks.dataset)


# --- Omniglot, miniImageNet -----------------------------------------------------------------------------------------


def _prepared_classes(
    dataset: str, split: str, data_path: Path, use_vinyals_split: bool, download_absent: bool
) -> tuple[ClassDataset, list[int]]:
    """torchmeta's data set of classes, and the number of images of each, rotated ones among them."""
    if split == "val" and held_out_split(dataset, use_vinyals_split) == "test":
        raise InputError("Omniglot's background/evaluation split has no validation classes: use --use_vinyals_split 1.")
    if not is_prepared(dataset, data_path):
        if not download_absent:
            raise InputError(
                f"--data_path {data_path} holds no prepared {dataset}: pass --download, or get it from "
                f"{WEBSITE[dataset]} and run {prepare_command(dataset, data_path)}."
            )
        download(dataset, data_path)
    try:
        if dataset == "omniglot":
            rotations = [torchmeta.transforms.Rotation([90, 180, 270])] if split == "train" else None
            class_dataset = torchmeta.datasets.omniglot.OmniglotClassDataset(
                data_path,
                meta_split=split,
                use_vinyals_split=use_vinyals_split,
                transform=Compose([Resize(28), ToTensor()]),
                class_augmentations=rotations,
            )
        else:
            class_dataset = torchmeta.datasets.miniimagenet.MiniImagenetClassDataset(
                data_path, meta_split=split, transform=ToTensor()
            )
        names = ["/".join(label) if dataset == "omniglot" else label for label in class_dataset.labels]
        counts = [len(class_dataset.data[name]) for name in names] * (1 + len(class_dataset.class_augmentations))
        class_dataset.close()
    except DAMAGE as error:
        raise _damaged(dataset, split, data_path, error) from error
    return class_dataset, counts


def _damaged(dataset: str, split: str, data_path: Path, error: Exception) -> InputError:
    return InputError(
        f"the {split} split in {data_path / dataset} is cut short or corrupt ({error}): delete that folder and run "
        f"{prepare_command(dataset, data_path)}."
    )


def _decoded_once(dataset: str, class_dataset: ClassDataset, counts: list[int], data_path: Path) -> ClassImages:
    """The images of a split in a file, as torchmeta decodes, rotates and resizes them.

    Raises:
        WriteError: the file cannot be written.
        InputError: the data are damaged.
    """
    files = [Path(class_dataset.split_filename), Path(class_dataset.split_filename_labels)]
    status = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    name = files[1].name.removesuffix("_labels.json")

    def decode(number: int) -> np.ndarray:
        images = class_dataset[number]
        try:
            pixels = torch.stack([images[index][0] for index in range(len(images))])
        except DAMAGE as error:
            raise _damaged(dataset, class_dataset.meta_split, data_path, error) from error
        return pixels.mul_(255).round_().byte().numpy()  # exact: ToTensor divided whole numbers by 255

    path = data_path / dataset / "cache" / f"{name}.npy"
    try:
        return open_class_images(path, status, counts, INPUT_SHAPES[dataset], decode)
    finally:
        class_dataset.close()


# --- Synthetic glyphs -----------------------------------------------------------------------------------------------

GLYPHS_PER_SPLIT = 1_000_000
DRAWINGS_PER_GLYPH = 100
# A glyph is drawn on a canvas of 3 x 28 pixels and averaged down, which smooths its edges.
OVERSAMPLING = 3
POINTS_PER_STROKE = 14


class SyntheticGlyphs(ClassDataset):
    """Invented characters, drawn when asked for: Omniglot's kind of task without Omniglot's files.

    A class is a glyph of 2 to 4 curved strokes, a pure function of (seed, split, class); its drawings vary in their
    control points, slant, size, place and pen, a pure function of (seed, split, class, drawing).
    """

    def __init__(self, seed: int, split: str):
        super().__init__(meta_split=split)
        self.draw_seed = seed

    @property
    def num_classes(self) -> int:
        return GLYPHS_PER_SPLIT

    def __getitem__(self, index: int) -> "GlyphDrawings":
        return GlyphDrawings(index, self.draw_seed, self.meta_split, self.get_target_transform(index))


class GlyphDrawings(torchmeta.utils.data.Dataset):
    """All drawings of one glyph: (image float32 (1, 28, 28) in [0, 1], label)."""

    def __init__(self, index: int, seed: int, split: str, target_transform):
        super().__init__(index, transform=ToTensor(), target_transform=target_transform)
        self.draw_seed, self.purpose = seed, f"glyphs/{split}"
        self.strokes = invent_glyph(numpy_generator(seed, self.purpose, index))

    def __len__(self) -> int:
        return DRAWINGS_PER_GLYPH

    def __getitem__(self, drawing: int) -> tuple[torch.Tensor, int]:
        draws = numpy_generator(self.draw_seed, self.purpose, self.index, drawing)
        return self.transform(draw_glyph(self.strokes, draws)), self.target_transform(self.index)


def invent_glyph(draws: np.random.Generator) -> np.ndarray:
    """The strokes of a new glyph: control points of cubic Bezier curves in the unit square, (strokes, 4, 2)."""
    strokes = np.empty((draws.integers(2, 5), 4, 2))
    for number, stroke in enumerate(strokes):
        start, end = draws.uniform(0.12, 0.88, (2, 2))
        if number and draws.random() < 0.6:  # as in writing, most strokes start at an earlier one
            start = strokes[draws.integers(number), draws.integers(4)]
        while np.linalg.norm(end - start) < 0.3:  # a stroke, not a dot
            end = draws.uniform(0.12, 0.88, 2)
        stroke[:] = start + np.linspace(0, 1, 4)[:, None] * (end - start)
        stroke[1:3] += draws.normal(0, 0.2, (2, 2))
    return strokes.clip(0.05, 0.95)


def draw_glyph(strokes: np.ndarray, draws: np.random.Generator) -> Image.Image:
    """One person's drawing of a glyph: white on black, 8-bit grey, 28x28."""
    points = _bezier_basis() @ (strokes + draws.normal(0, 0.04, strokes.shape))
    angle = draws.normal(0, 0.15)
    slant, *scale = draws.normal((0, 1, 1), (0.15, 0.14, 0.14))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    bend = np.array([[scale[0], slant], [0, scale[1]]])
    points = (points - 0.5) @ (turn @ bend).T + 0.5 + draws.normal(0, 0.075, 2)
    size = 28 * OVERSAMPLING
    image = Image.new("L", (size, size))
    pen = ImageDraw.Draw(image)
    width = int(draws.integers(3, 6))
    for stroke in points * size:
        pen.line(stroke.ravel().tolist(), fill=255, width=width)
    return image.reduce(OVERSAMPLING)


@lru_cache(maxsize=1)
def _bezier_basis() -> np.ndarray:
    """Weights of a cubic Bezier curve's four control points along the stroke, (points, 4)."""
    t = np.linspace(0, 1, POINTS_PER_STROKE)
    return np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)


# --- The command ----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = ArgumentParser(
        prog="torchmeta_loader.py", description="Turns a manual download into the files that torchmeta reads."
    )
    required = {"required": True, "default": argparse.SUPPRESS}
    parser.add_argument("--prepare", choices=tuple(WEBSITE), help="the data set", **required)
    parser.add_argument(
        "--source",
        type=Path,
        metavar="FILE_OR_DIR",
        help="the folder of the downloaded files, or one of them: Omniglot's two zips or their unpacked folders; "
        "miniImageNet as train/val/test tars, folders of classes, or mini-imagenet-cache-<split>.pkl files",
        **required,
    )
    parser.add_argument("--data_path", type=Path, default=Path("data"), metavar="DIR", help="where the data go")
    args = parser.parse_args()

    folder = args.data_path / args.prepare
    found = prepare(args.prepare, args.source, args.data_path)
    print(f"{folder} is ready: {found}." if found else f"{folder} is prepared already; nothing was changed.")


if __name__ == "__main__":
    run(main, "torchmeta_loader.py", "nothing half-written is left.")
