"""What search and training of a full task share: the steps of an epoch, and testing."""

import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch

from utils.memory import METERED_STEPS, PeakMemory

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]  # images (N, C, H, W) and labels (N,)


def cosine_decay(start: float, epoch: int, epochs: int) -> float:
    """A learning rate that falls from ``start`` at epoch 0 to 0 after the last."""
    return start * (1 + math.cos(math.pi * epoch / epochs)) / 2


def take_steps(step: Callable[[int, Any], Any], batches: Iterable, memory: PeakMemory) -> list:
    """What ``step(number, batch)`` returns of each batch; the memory of the first steps is measured."""
    numbered = enumerate(batches)
    results = []
    with memory:
        for number, batch in islice(numbered, METERED_STEPS):
            results.append(step(number, batch))
    for number, batch in numbered:
        results.append(step(number, batch))
    return results


@torch.no_grad()
def share_of_right(logits: Callable[[torch.Tensor], torch.Tensor], batches: Batches, device: torch.device) -> float:
    """The share of images that are classified rightly."""
    right, seen = 0, 0
    for images, labels in batches:
        right += (logits(images.to(device)).argmax(1) == labels.to(device)).sum().item()
        seen += len(labels)
    return right / seen
