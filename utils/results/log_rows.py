"""The rows of the logs that runs write: a dataclass for each kind, a field for each figure.

As in results.json, the key of a field that is None is absent; memory is in MiB, time in seconds, and accuracies are
fractions.
"""

from dataclasses import dataclass
from typing import ClassVar, TypedDict

from utils.results.schema import Amount, Cells, DataUri, FoundFigures, Fraction, Peaks, Seconds
from utils.results.settings import Count


@dataclass(frozen=True, kw_only=True)
class TaskRow(FoundFigures, Peaks):
    """A test task, in tasks.jsonl: accuracies before and after adapting; the loss is that of the queries, after.

    loss: None if it is not finite. seconds: of adapting. seconds_per_step: median; a step is an architecture and a
    weight step on one batch. Peaks are None where they were not measured. predictions: each query's class, after.
    """

    writer: ClassVar[str] = "onnas.py"
    index: ClassVar[str] = "task"
    task: Count
    accuracy: Fraction
    accuracy_before: Fraction
    loss: Amount | None = None
    seconds: Seconds
    seconds_per_step: Seconds
    genotype: Cells
    predictions: list[Count]


@dataclass(frozen=True, kw_only=True)
class PretrainingRow:
    """An epoch of the pre-training, in pretraining.jsonl: means over its steps, and the accuracy on held-out images."""

    writer: ClassVar[str] = "tfml.py"
    index: ClassVar[str] = "epoch"
    epoch: Count
    train_loss: Amount
    train_accuracy: Fraction
    held_out_accuracy: Fraction
    seconds: Amount
    images_per_second: Amount


@dataclass(frozen=True, kw_only=True)
class MetaEpochRow(Peaks):
    """A meta-epoch, in metrics.jsonl; of one with a meta-test also its figures, and the first task's peaks."""

    writer: ClassVar[str] = "tfml.py"
    index: ClassVar[str] = "meta_epoch"
    meta_epoch: Count
    train_loss: Amount
    train_accuracy: Fraction
    seconds: Seconds
    tasks_per_second: Amount
    test_loss: Amount | None = None
    test_accuracy: Fraction | None = None
    test_accuracy_ci95: Amount | None = None
    found_accuracy: Fraction | None = None
    found_accuracy_ci95: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class SearchEpochRow(Peaks):
    """An epoch of a full task's search, in search.jsonl: means over its steps.

    validation_accuracy: on the architecture's half, each batch before it was stepped on; None while warming up.
    """

    writer: ClassVar[str] = "onnas.py"
    index: ClassVar[str] = "epoch"
    epoch: Count
    loss: Amount
    accuracy: Fraction
    validation_accuracy: Fraction | None = None
    seconds: Seconds
    seconds_per_step: Seconds


@dataclass(frozen=True, kw_only=True)
class DerivedEpochRow(Peaks):
    """An epoch of a derived network's training, in derived.jsonl; the loss includes the auxiliary head's share."""

    writer: ClassVar[str] = "onnas.py"
    index: ClassVar[str] = "epoch"
    epoch: Count
    loss: Amount
    accuracy: Fraction
    seconds: Seconds


class ShownQuery(TypedDict):
    """A query image and the class that it was given."""

    image: DataUri
    predicted: Count


class ShownClass(TypedDict):
    """Some images of one class."""

    support: list[DataUri]
    queries: list[ShownQuery]


@dataclass(frozen=True, kw_only=True)
class ExampleRow:
    """Some images of one of the first tasks, in examples.jsonl.

    classes: their names. shown: the images of the first so many of them.
    """

    writer: ClassVar[str] = "onnas.py"
    index: ClassVar[str | None] = None
    classes: list[str]
    shown: list[ShownClass]

    def __post_init__(self):
        if len(self.shown) > len(self.classes):
            raise ValueError("it shows more classes than it names")


@dataclass(frozen=True, kw_only=True)
class PhotographRow:
    """A classified image, in photographs.jsonl, which has the least sure first.

    said: its class, with this probability. label: its class by the folder that it is in; None: not known.
    """

    writer: ClassVar[str] = "onnas.py"
    index: ClassVar[str | None] = None
    file: str
    image: DataUri
    said: str
    probability: Fraction
    label: str | None = None


AnyRow = TaskRow | MetaEpochRow | SearchEpochRow | DerivedEpochRow | ExampleRow | PhotographRow
