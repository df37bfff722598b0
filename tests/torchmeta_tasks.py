"""Episodes by torchmeta alone: its data sets of classes, its splitter, its loader: the reference."""

from collections import OrderedDict
from pathlib import Path

from torchmeta_loader import FewShotTasks
from utils.data.torchmeta_classes import TorchmetaClasses
from utils.data.torchmeta_mend import torchmeta
from utils.draws import derive_seed, numpy_generator

BatchMetaDataLoader = torchmeta.utils.data.BatchMetaDataLoader
Categorical = torchmeta.transforms.Categorical


def through_torchmeta(tasks: FewShotTasks, numbers: range, classes=None) -> list[list[bytes]]:
    """What tests.sources.draw gives, image by image.

    Args:
        classes: torchmeta's own data set of classes; None: one made of the tasks' images.
    """
    reference = TorchmetaTasks(tasks, classes or _Classes(tasks))
    loader = BatchMetaDataLoader(reference, shuffle=False, sampler=numbers)
    return [[tensor.numpy().tobytes() for part in ("support", "query") for tensor in batch[part]] for batch in loader]


def classes_of(dataset: str, split: str, data: Path, use_vinyals_split: bool = True):
    """torchmeta's data set of the classes of a split; None of synthetic glyphs, which it has not."""
    if dataset == "synthetic":
        return None
    return TorchmetaClasses(dataset, split, data, use_vinyals_split).classes


class TorchmetaTasks(torchmeta.utils.data.CombinationMetaDataset):
    """The tasks by number: {"support": data set, "query": data set}."""

    def __init__(self, tasks: FewShotTasks, classes: torchmeta.utils.data.ClassDataset):
        splitter = torchmeta.transforms.ClassSplitter(
            num_support_per_class=tasks.shots, num_query_per_class=tasks.queries
        )
        super().__init__(classes, tasks.ways, target_transform=Categorical(tasks.ways), dataset_transform=splitter)
        self.draw_seed = tasks.seed

    def __getitem__(self, episode: int) -> OrderedDict:
        # torchmeta's splitter picks a class's images by the one seed and orders them by the other.
        seed = derive_seed(self.draw_seed, f"images/{self.meta_split}", episode) % 2**32
        self.dataset_transform.random_state_seed = seed
        self.dataset_transform.seed(seed)
        draws = numpy_generator(self.draw_seed, f"classes/{self.meta_split}", episode)
        return super().__getitem__(tuple(draws.choice(len(self.dataset), self.num_classes_per_task, False).tolist()))

    def _copy_categorical(self, transform: Categorical) -> Categorical:
        """Labels by position: the classes come in random order, and torchmeta would ask torch's global generator."""
        labels = super()._copy_categorical(transform)
        labels._labels = list(range(self.num_classes_per_task))
        return labels


class _Classes(torchmeta.utils.data.ClassDataset):
    def __init__(self, tasks: FewShotTasks):
        super().__init__(meta_split=tasks.size.split)
        self.source = tasks.source

    @property
    def num_classes(self) -> int:
        return self.source.classes

    def __getitem__(self, index: int) -> "_Class":
        return _Class(index, self.source, self.get_target_transform(index))


class _Class(torchmeta.utils.data.Dataset):
    def __init__(self, index: int, source, target_transform):
        super().__init__(index, target_transform=target_transform)
        self.source = source

    def __len__(self) -> int:
        return self.source.count(self.index)

    def __getitem__(self, number: int):
        return self.source.images.read([self.index], [number])[0] / 255, self.target_transform(self.index)
