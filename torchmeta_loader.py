"""Few-shot task distributions over torchmeta: Omniglot, miniImageNet, synthetic glyphs, a folder of images.

    tasks = few_shot_tasks("omniglot", "train", ways=5, shots=1, queries=15, seed=21, data_path="data")
    for episode in episodes(tasks, range(1000)):
        episode.support, episode.support_labels  # uint8 (5, 1, 28, 28), int64 (5,)

torchmeta draws its tasks from global generators. Here every draw depends only on (seed, what it is for, episode), so
episode 7 is the same task whatever ran before it, and in whichever process it is loaded.

torchmeta decodes every image of every task. Here it decodes a split once into a file, from which episodes are read by
index: the same images, labels and order. Where the file is there, torchmeta and torchvision are not imported.

Run as a script, it turns a manual download into what torchmeta reads:

    python torchmeta_loader.py --prepare omniglot|miniimagenet --source FILE_OR_DIR --data_path DIR
"""

from utils.run.start import begin

if __name__ == "__main__":
    begin("torchmeta_loader.py")  # before what takes seconds to import

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from utils.data import glyphs, torchmeta_sets
from utils.data.episode import Episode
from utils.data.few_shot_folder import folder_split
from utils.data.few_shot_split import FewShotSplit, class_name
from utils.data.labelled_images import LabelledImages
from utils.data.prepared import WEBSITE
from utils.draws import derive_seed, numpy_generator
from utils.errors import InputError
from utils.run.cli import ArgumentParser, place, run

LABELLED_GLYPHS = 200  # classes of synthetic glyphs in a labelled set


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
    split_seed: int | None = None,
) -> "FewShotTasks":
    """The few-shot tasks over the classes of one split.

    Args:
        dataset: one of ``FEW_SHOT_SETS``.
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
        split_seed: of "imagefolder": splits the classes where the folder does not; None: ``seed`` does.

    Raises:
        InputError: the data are absent, unreadable or damaged, or hold too few classes or images for such tasks.
    """
    place = Path(data_path).expanduser()
    if dataset == "synthetic":
        source = glyphs.glyph_split(split, seed)
    elif dataset == "imagefolder":
        classes_by = seed if split_seed is None else split_seed
        source = folder_split(place, split, seed=classes_by, input_size=input_size, channels=channels)
    else:
        source = torchmeta_sets.torchmeta_split(dataset, split, place, use_vinyals_split, download)
    if ways > source.classes:
        raise InputError(f"--n {ways} is too many: the {split} split of {dataset} has {source.classes} classes.")
    fewest = int(np.argmin(source.counts))
    if shots + queries > source.counts[fewest]:
        images, name = source.counts[fewest], class_name(source.labels, fewest)
        raise InputError(
            f"{shots} shots and {queries} queries a class are too many: the class {name} of {dataset} has {images} "
            f"images, so --q and the shots (--n_train in training, --k in testing) may add up to {images}."
        )
    return FewShotTasks(source, ways=ways, shots=shots, queries=queries, seed=seed)


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
        generator=torch.Generator(),  # without one, it draws the seeds of its workers from torch's global one
    )
    for episode in loader:
        if isinstance(episode, InputError):
            raise episode
        yield episode


class FewShotTasks:
    """The ways-way tasks over the classes of a split, by number; torchmeta's ClassSplitter would draw the same.

    Attributes:
        shape, size, content, notes, split_seed: see :class:`FewShotSplit`.

    Args:
        source: the classes.
        ways: classes a task.
        shots: support images a class.
        queries: query images a class.
        seed: of every draw.
    """

    def __init__(self, source: FewShotSplit, *, ways: int, shots: int, queries: int, seed: int):
        self.source, self.ways, self.shots, self.queries, self.seed = source, ways, shots, queries, seed
        self.shape, self.size, self.content, self.notes = source.shape, source.size, source.content, source.notes
        self.split_seed = source.split_seed

    def load(self, number: int) -> Episode:
        """The episode of this number, as tensors."""
        classes = self._classes(number)
        tensors = []
        for count, numbers in zip((self.shots, self.queries), self._images(number, classes), strict=True):
            labels = np.arange(self.ways).repeat(count)
            of_images = [classes[label] for label in labels]
            tensors += [self.source.images.read(of_images, numbers), torch.from_numpy(labels)]
        return Episode(number, *tensors, tuple(class_name(self.source.labels, index) for index in classes))

    def labelled(self) -> LabelledImages:
        """The images of all classes as one labelled set; of synthetic glyphs, without number, those of the first."""
        drawn = self.content is None
        counts = list(self.source.counts)[:1] * LABELLED_GLYPHS if drawn else self.source.counts
        return LabelledImages(counts, self.source.images.read)

    def _classes(self, number: int) -> list[int]:
        draws = numpy_generator(self.seed, f"classes/{self.size.split}", number)
        return draws.choice(self.source.classes, self.ways, replace=False).tolist()

    def _images(self, number: int, classes: list[int]) -> tuple[list[int], list[int]]:
        """The numbers of support and of query images, class by class.

        A class's images are picked by a generator of its own, and put in order by one that the classes share.
        """
        seed = derive_seed(self.seed, f"images/{self.size.split}", number) % 2**32
        order, drawn = np.random.RandomState(seed), ([], [])
        for index in classes:
            own = np.random.RandomState((hash(tuple(classes)) + hash(index) + seed) % 2**32)
            picked = own.permutation(self.source.count(index))[: self.shots + self.queries]
            for part, numbers in zip(drawn, (picked[: self.shots], picked[self.shots :]), strict=True):
                order.shuffle(numbers)
                part += numbers.tolist()
        return drawn


class _Episodes(torch.utils.data.Dataset):
    """From a number to its episode."""

    def __init__(self, tasks: FewShotTasks):
        self.tasks = tasks

    def __getitem__(self, number: int) -> Episode | InputError:
        try:
            return self.tasks.load(number)
        except InputError as error:
            return error  # raised in a worker, it would arrive with the worker's traceback as its text


def main() -> None:
    parser = ArgumentParser(
        prog="torchmeta_loader.py", description="Turns a manual download into the files that torchmeta reads."
    )
    required = {"required": True, "default": argparse.SUPPRESS}
    parser.add_argument("--prepare", choices=tuple(WEBSITE), help="the data set", **required)
    parser.add_argument(
        "--source",
        type=place,
        metavar="FILE_OR_DIR",
        help="the folder of the downloaded files, or one of them, which is read with the others of its form: "
        "Omniglot's two zips or their unpacked folders; miniImageNet as train/val/test tars, folders of classes, or "
        "mini-imagenet-cache-<split>.pkl files",
        **required,
    )
    parser.add_argument("--data_path", type=place, default=Path("data"), metavar="DIR", help="where the data go")
    args = parser.parse_args()

    from utils.data.prepare import prepare  # h5py and torchvision, which --help does without

    folder = args.data_path / args.prepare
    found = prepare(args.prepare, args.source, args.data_path)
    print(f"{folder} is ready: {found}." if found else f"{folder} is prepared already; nothing was changed.")


if __name__ == "__main__":
    run(main, "torchmeta_loader.py", "nothing half-written is left.")
