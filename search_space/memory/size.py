"""What a task holds in memory while it is searched and tested."""

from dataclasses import dataclass

import torch

from search_space.batches import batches, query_batches
from search_space.settings import SearchSettings

Shape = tuple[int, int, int]


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """Images of each batch of an epoch; a single one that is left joins its neighbour."""
    return [len(batch) for batch in batches(torch.arange(images), batch_size)]


@dataclass(frozen=True)
class Size:
    """A task of ``ways`` classes.

    train: images of the support set, of a full task those of the half of its training set with the larger batches.
    queries: images to test on; None: a full task's, which are read one micro-batch after the other.
    shape: (C, H, W) of an image.
    """

    ways: int
    train: int
    queries: int | None
    shape: Shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the images that wait for their turn: pixels, but a full task's are normalised."""
        return torch.float32 if self.queries is None else torch.uint8

    def batch_sizes(self, settings: SearchSettings) -> list[int]:
        """Images of each batch of an epoch."""
        return batch_sizes(self.train, settings.batch_size)

    def images(self, settings: SearchSettings) -> int:
        """Images in memory while the task is adapted to."""
        if self.queries is None:
            return 2 * max(self.batch_sizes(settings))  # a batch of the weights' half, one of the architecture's
        return self.train

    def images_in_testing(self) -> int:
        """Of a few-shot task's, those in memory while it is tested."""
        return 0 if self.queries is None else self.train

    def test_images(self, settings: SearchSettings) -> int:
        """Images to be tested on that are in memory."""
        return self.test_batch(settings) if self.queries is None else self.queries

    def test_batch(self, settings: SearchSettings) -> int:
        """Images of the largest batch of testing."""
        if self.queries is None:
            return largest_micro_batch(self, settings)
        if not settings.transductive:
            return min(largest_micro_batch(self, settings), self.queries)
        labels = torch.arange(self.queries) % self.ways
        return max(map(len, query_batches(labels, settings.query_batch or settings.batch_size)))


def largest_micro_batch(task: Size, settings: SearchSettings) -> int:
    """Its images."""
    return max(map(settings.schedule.largest, set(task.batch_sizes(settings))))
