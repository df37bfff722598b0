"""Training a derived network by DARTS's rule: SGD with momentum, cosine decay and drop-path (Liu et al., ICLR 2019)."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import nn
from torch.nn import functional as F

from models.derived_network import DerivedNetwork
from search_space.task_search import chunks
from utils.draws import torch_generator
from utils.errors import InputError
from utils.memory import METERED_STEPS, PeakMemory

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class TrainingSettings:
    """How a derived network is trained; the published values.

    lr: at the start; its cosine decay ends at 0 with the last epoch.
    grad_clip: the largest norm of a batch's gradient.
    drop_path_prob: reached linearly from 0 over the epochs.
    split_num: chunks of a batch, whose gradients are accumulated.
    step_by_step: one cell's activations at a time, for the time of a second forward pass.
    auxiliary_weight: of the auxiliary head's loss, where there is one.
    """

    epochs: int
    lr: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    drop_path_prob: float = 0.2
    split_num: int = 1
    step_by_step: bool = False
    auxiliary_weight: float = 0.4

    def lr_at(self, epoch: int) -> float:
        return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def drop_path_at(self, epoch: int) -> float:
        return self.drop_path_prob * epoch / self.epochs


@dataclass(frozen=True)
class TrainingResult:
    """An epoch: the mean loss, with the auxiliary head's share, and the accuracy, both while the weights change.

    peak_memory_mib: of the first steps. peak_memory_breakdown_mib: its parts, of live tensor bytes by kind.
    """

    loss: float
    accuracy: float
    seconds: float = field(compare=False)
    peak_memory_mib: float
    peak_memory_breakdown_mib: dict[str, float]


class DerivedTraining:
    """Trains a network, changed in place. An epoch depends on the state at its start, the seed and its number alone."""

    def __init__(self, network: DerivedNetwork, settings: TrainingSettings, seed: int):
        self.network = network
        self.settings = settings
        self.seed = seed
        self.optimizer = torch.optim.SGD(
            network.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay
        )

    def train_epoch(self, epoch: int, batches: Batches, on_step: Callable[[], None] = lambda: None) -> TrainingResult:
        """One pass, over batches of images (N, C, H, W) and labels (N,).

        Args:
            epoch: its number, from 0.
            on_step: is called after each batch.

        Raises:
            InputError: the loss or the gradient is not finite.
        """
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr_at(epoch)
        probability, draws = self.settings.drop_path_at(epoch), torch_generator(self.seed, "derived drop-path", epoch)
        started = time.perf_counter()

        def step(images: torch.Tensor, labels: torch.Tensor) -> tuple[float, int, int]:
            loss, right = self.add_gradient(images, labels, probability, draws)
            loss, right, norm = torch.stack([loss, right.float(), self.step()]).tolist()
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise InputError(
                    f"the derived network's training diverged in epoch {epoch}: "
                    f"--derived_lr must be smaller than {self.settings.lr:g}."
                )
            on_step()
            return loss * len(labels), round(right), len(labels)

        momenta = (state["momentum_buffer"] for state in self.optimizer.state.values())
        resident = [*self.network.parameters(), *self.network.buffers()]
        taken = (step(*batch) for batch in self._on_device(batches))
        with PeakMemory(self.network.head.weight.device, resident, momenta) as memory:
            results = list(islice(taken, METERED_STEPS))
        results += taken
        loss, right, seen = map(sum, zip(*results, strict=True))
        seconds = time.perf_counter() - started
        return TrainingResult(loss / seen, right / seen, seconds, memory.mib, memory.breakdown_mib)

    def add_gradient(
        self, images: torch.Tensor, labels: torch.Tensor, probability: float, draws: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds the gradient of a batch's mean loss, micro-batch by micro-batch, each weighted by its share.

        Args:
            probability: that an edge is dropped. draws: where from.

        Returns:
            The loss and the number of right answers, scalars.
        """
        total, right = torch.zeros((), device=images.device), torch.zeros((), dtype=torch.long, device=images.device)
        parts = (chunks(tensor, self.settings.split_num) for tensor in (images, labels))
        for chunk, chunk_labels in zip(*parts, strict=True):
            keep = self.network.draw_drop_path(len(chunk), probability, draws) if probability > 0 else None
            logits = self.network(chunk, keep, self.settings.step_by_step)
            loss = 0.0
            if self.network.settings.auxiliary:
                logits, auxiliary_logits = logits
                loss = self.settings.auxiliary_weight * F.cross_entropy(auxiliary_logits, chunk_labels)
            loss = (F.cross_entropy(logits, chunk_labels) + loss) * (len(chunk) / len(images))
            loss.backward()
            total += loss.detach()
            right += (logits.detach().argmax(1) == chunk_labels).sum()
        return total, right

    def step(self) -> torch.Tensor:
        """Clips the gradient, steps, and clears it; returns its norm before, a scalar."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    @torch.no_grad()
    def accuracy(self, batches: Batches) -> float:
        """The share of right answers, BN by its running statistics."""
        self.network.eval()
        right, seen = 0, 0
        for images, labels in self._on_device(batches):
            right += (self.network(images).argmax(1) == labels).sum().item()
            seen += len(labels)
        return right / seen

    def _on_device(self, batches: Batches) -> Batches:
        device = self.network.head.weight.device
        return ((images.to(device), labels.to(device)) for images, labels in batches)

    def state_dict(self) -> dict:
        """All that the next epoch starts from, in tensors and plain values."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
