"""What a task holds in memory while it is searched and tested."""

from dataclasses import dataclass

import torch

from models.supernet import SupernetSettings
from search_space.batches import batches, micro_batch_groups, query_batches
from search_space.settings import SearchSettings

Shape = tuple[int, int, int]


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """Images of each batch of an epoch; a single one that is left joins its neighbour."""
    return [len(batch) for batch in batches(torch.arange(images), batch_size)]


@dataclass(frozen=True)
class TaskSize:
    """A few-shot task: ``ways`` classes of ``shots`` support and ``queries`` query images of ``shape`` (C, H, W)."""

    ways: int
    shots: int
    queries: int
    shape: Shape

    def batch_sizes(self, settings: SearchSettings) -> list[int]:
        """Images of each batch of an epoch."""
        return batch_sizes(self.ways * self.shots, settings.batch_size)

    def images(self, settings: SearchSettings) -> int:
        """Images in memory while the task is adapted to."""
        return self.ways * self.shots

    def images_in_testing(self, settings: SearchSettings) -> int:
        """Of these, those in memory while it is tested."""
        return self.images(settings)

    def test_images(self, settings: SearchSettings) -> int:
        """Query images in memory while it is tested."""
        return self.ways * self.queries

    def test_batch(self, settings: SearchSettings) -> int:
        """Images of the largest batch of testing."""
        if not settings.transductive:
            return 1
        labels = torch.arange(self.ways * self.queries) % self.ways
        return max(map(len, query_batches(labels, settings.batch_size)))


@dataclass(frozen=True)
class FullTaskSize:
    """A full task of ``ways`` classes, ``half`` images of ``shape`` (C, H, W) in each half of the training set.

    Its batches are read one after the other, and it is tested in batches of a micro-batch's size.
    """

    ways: int
    half: int
    shape: Shape

    def batch_sizes(self, settings: SearchSettings) -> list[int]:
        return batch_sizes(self.half, settings.batch_size)

    def images(self, settings: SearchSettings) -> int:
        return 2 * max(self.batch_sizes(settings))  # a batch of the weights' half, one of the architecture's

    def images_in_testing(self, settings: SearchSettings) -> int:
        return 0

    def test_images(self, settings: SearchSettings) -> int:
        return self.test_batch(settings)

    def test_batch(self, settings: SearchSettings) -> int:
        return largest_micro_batch(self, settings)


Size = TaskSize | FullTaskSize


def largest_micro_batch(task: Size, settings: SearchSettings) -> int:
    """Its images."""
    return max(map(settings.schedule.largest, set(task.batch_sizes(settings))))


def largest_groups(network: SupernetSettings, task: Size, settings: SearchSettings) -> dict[int, list[int]]:
    """The sizes of the micro-batches that go forward side by side: of the largest group of one, and of two."""
    largest = {}
    for size in set(task.batch_sizes(settings)):
        for group in micro_batch_groups(torch.arange(size), settings.schedule, network, task.shape[1:]):
            sizes = list(map(len, group))
            largest[len(sizes)] = max(largest.get(len(sizes), [0]), sizes)
    return largest
