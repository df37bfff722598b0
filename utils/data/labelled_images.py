"""The images of all classes of a split as one labelled set, of which a few of each class are held out."""

from collections.abc import Callable, Sequence

import torch

from utils.data.pixels import unit_range

HELD_OUT = 20  # one image of so many, and one of each class at least


class LabelledImages:
    """Images by row; a row is (class, number).

    Args:
        counts: images of each class, two at least.
        read: from classes and numbers to images, uint8 (N, C, H, W).

    Attributes:
        training, held_out: the rows to train on and those to test on, (M, 2) each; they share none.
    """

    def __init__(self, counts: Sequence[int], read: Callable[[Sequence[int], Sequence[int]], torch.Tensor]):
        self.classes, self._read = len(counts), read
        training, held_out = [], []
        for label, count in enumerate(counts):
            first = count - max(1, count // HELD_OUT)  # the last of each class
            training += [(label, number) for number in range(first)]
            held_out += [(label, number) for number in range(first, count)]
        self.training, self.held_out = torch.tensor(training), torch.tensor(held_out)

    def read(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The images, float32 (N, C, H, W) in [0, 1], and labels (N,) of ``rows`` (N, 2)."""
        labels, numbers = rows.unbind(1)
        return unit_range(self._read(labels.tolist(), numbers.tolist())), labels
