"""How a set of images is gone through: epochs, batches, micro-batches."""

from typing import NamedTuple

import torch

from search_space.settings import Schedule
from utils.draws import Draws


class Batch(NamedTuple):
    """A batch of a set of images (N, C, H, W) with labels (N,): those of ``index`` (B,)."""

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor


def batches(order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Splits an order into batches; a last batch of a single image joins its neighbour (its BN would be empty)."""
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def query_batches(labels: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Splits the queries into batches that hold every class equally often, of about ``batch_size`` images."""
    by_class = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    rounds = torch.stack(by_class, dim=1)  # one image of each class a row
    return [part.flatten() for part in rounds.split(max(1, batch_size // len(by_class)))]


def micro_batches(batch: torch.Tensor, schedule: Schedule) -> tuple[torch.Tensor, ...]:
    """Splits a batch into micro-batches whose sizes differ by one at most."""
    return batch.tensor_split(schedule.count(len(batch)))


class BatchOrders:
    """The batches of a task's support set, epoch by epoch: the weights', and those of alpha and beta.

    There is no separate validation set: alpha and beta have a shuffle of their own of the same images.
    """

    def __init__(self, draws: Draws, size: int, batch_size: int):
        self._generators = [draws.generator(f"{use} batches") for use in ("weight", "architecture")]
        self._size, self._batch_size = size, batch_size

    def epoch(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The next epoch's: (weights', architecture's) indices of images."""
        orders = (torch.randperm(self._size, generator=generator) for generator in self._generators)
        return list(zip(*(batches(order, self._batch_size) for order in orders), strict=True))
