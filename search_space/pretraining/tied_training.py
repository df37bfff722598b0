"""What every pre-training has: tied cells, steps in epochs over labelled images, and a state to go on from.

The cells are tied: a weight moves by the mean of the gradients of the places that own it, which is the second fold,
with the mean, at every step. Every draw depends on (seed, what it is for, step): a run that was stopped goes on to the
same weights.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import replace

import torch

from models.meta_cell import MetaCell
from models.tied_cells import TiedCells
from search_space.search_network import SearchNetwork
from search_space.settings import DecidingSettings, PretrainingSettings
from utils.data.labelled_images import LabelledImages
from utils.data.views import Views
from utils.errors import InputError
from utils.run.ranks import Ranks


class TiedTraining(ABC):
    """Trains a network, which is changed in place.

    Args:
        views: how an image is varied before it is trained on.

    Attributes:
        step: steps that are done.
        sums: of the loss and of what was classified rightly, over the steps of the present epoch.
        optimizers: what there is besides the network to go on from.
    """

    optimizers: tuple[torch.optim.Optimizer, ...]

    def __init__(
        self,
        network: SearchNetwork,
        images: LabelledImages,
        views: Views,
        settings: PretrainingSettings | DecidingSettings,
        seed: int,
    ):
        self.network, self.images, self.views, self.settings, self.seed = network, images, views, settings, seed
        self.tied = TiedCells(network.supernet)
        self.step = 0
        self.sums = [0.0, 0.0]

    @abstractmethod
    def advance(self, ranks: Ranks) -> tuple[float, float]:
        """One step on one batch, its micro-batches shared among the processes.

        Returns:
            The batch's mean loss, and the share of it that was classified rightly.

        Raises:
            InputError: the loss is not finite any more.
        """

    @abstractmethod
    def held_out_accuracy(self, ranks: Ranks) -> float:
        """The share of images that were held out from training which is classified rightly."""

    @property
    def steps_per_epoch(self) -> int:
        """What does not fill a last batch is left out; the next epoch draws another order."""
        return max(1, len(self.images.training) // self.settings.batch_size)

    @property
    def steps(self) -> int:
        return self.settings.epochs * self.steps_per_epoch

    def epoch_means(self) -> list[float]:
        """Of the loss, and of what was classified rightly, over the steps of the last epoch."""
        return [total / self.steps_per_epoch for total in self.sums]

    def refuse_divergence(self, loss: float) -> None:
        """Raises:
        InputError: the loss is not finite.
        """
        if not math.isfinite(loss):
            raise InputError(f"step {self.step} of the pre-training diverged: --pretrain_lr is too large.")

    def count_step(self, loss: float, right: float) -> None:
        """Adds a step that was taken to the epoch's sums."""
        before = self.sums if self.step % self.steps_per_epoch else (0.0, 0.0)
        self.sums = [before[0] + loss, before[1] + right]
        self.step += 1

    def state(self) -> dict:
        """All that a run needs to go on: tensors and plain values."""
        return {
            "step": self.step,
            "sums": self.sums,
            "supernet": self.network.supernet.state_dict(),
            "architecture": self.network.architecture.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load(self, state: dict) -> None:
        """The opposite of :meth:`state`.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: it is another network's.
        """
        self.network.supernet.load_state_dict(state["supernet"])
        self.network.architecture.load_state_dict(state["architecture"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.sums = state["step"], state["sums"]

    def meta_cell(self, ways: int, separate: bool) -> MetaCell:
        """What was trained, for tasks of so many ways: their head starts at zero."""
        state = self.network.state(separate)
        head = {name: torch.zeros(ways, *tensor.shape[1:]) for name, tensor in state.head.items()}
        return replace(state, ways=ways, head=head)
