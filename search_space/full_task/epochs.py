"""What search and training of a full task share: the steps of an epoch, epochs that go on, and testing."""

import math
import operator
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from search_space.resume import epoch_log, load_checkpoint, save_checkpoint
from utils.memory import METERED_STEPS, PeakMemory
from utils.results.schema import as_values
from utils.run.progress import progress_bar
from utils.run.run_directory import still_there

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


class Epochs:
    """The epochs of a search or a training. A run goes on after the last that its checkpoint has.

    Args:
        trained: a FullTaskSearch or a DerivedTraining, changed in place. kind: of the log's rows.
        epochs: how many there are to be.

    Attributes:
        first: the epoch to begin with. rows: of the log.
    """

    def __init__(self, trained: Any, checkpoint: Path, log: Path, kind: type, epochs: int):
        self.trained = trained
        self.checkpoint = checkpoint
        self.epochs = epochs
        self.first = load_checkpoint(checkpoint, trained.load_state_dict, epochs)
        self.log = epoch_log(log, kind, self.first)
        self.rows = self.log.rows

    def run(self, name: str, steps: int, batches: Callable[[int], tuple], on_epoch: Callable[[object], None]) -> None:
        """Trains to the end.

        Args:
            name: in the progress bar. steps: of an epoch.
            batches: what an epoch is given, by its number.
            on_epoch: is told of the row of each.

        Raises:
            InputError: the run's folder has been deleted.
        """
        with progress_bar(None, name, "step", self.first * steps, self.epochs * steps) as progress:

            def on_step() -> None:
                still_there(self.checkpoint.parent)  # an epoch may take hours
                progress.update()

            for epoch in range(self.first, self.epochs):
                row = self.trained.train_epoch(epoch, *batches(epoch), on_step)
                self.log.append(row)
                on_epoch(row)
                save_checkpoint(self.checkpoint, epoch + 1, self.trained.state_dict())
                shown = {key: f"{value:.3f}" for key, value in as_values(row).items() if key.endswith("accuracy")}
                progress.set_postfix(epoch=epoch + 1, **shown, refresh=False)

    def peak(self, prefix: str = "") -> dict[str, object]:
        """The memory of the heaviest epoch, none if there was no epoch."""
        heaviest = max(self.rows, key=lambda row: row.peak_memory_mib or 0, default=None)
        keys = ("peak_memory_mib", "peak_memory_breakdown_mib")
        return {f"{prefix}{key}": heaviest and getattr(heaviest, key) for key in keys}


Logits = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def classify(logits: Logits, batches: Batches, device: torch.device) -> tuple[list[int], list[int]]:
    """The label and the given class of each image, in the batches' order."""
    labels, given = [], []
    for images, of_batch in batches:
        labels += of_batch.tolist()
        given += logits(images.to(device)).argmax(1).tolist()
    return labels, given


def share_of_right(logits: Logits, batches: Batches, device: torch.device) -> float:
    """The share of images that are classified rightly."""
    labels, given = classify(logits, batches, device)
    return sum(map(operator.eq, labels, given)) / len(labels)
