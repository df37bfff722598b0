"""Training a derived network by DARTS's rule: SGD with momentum, cosine decay and drop-path (Liu et al., ICLR 2019)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from models.derived_network import DerivedNetwork
from search_space.batches import micro_batches
from search_space.full_task.epochs import Batches, classify, cosine_decay, share_of_right, take_steps
from search_space.settings import Schedule
from utils.draws import torch_generator
from utils.errors import InputError
from utils.memory import PeakMemory
from utils.results.log_rows import DerivedEpochRow


@dataclass(frozen=True)
class TrainingSettings:
    """How a derived network is trained; the published values.

    lr: at the start; its cosine decay ends at 0 with the last epoch.
    grad_clip: the largest norm of a batch's gradient.
    drop_path_prob: reached linearly from 0 over the epochs.
    schedule: step by step, one cell's activations at a time, for the time of a second forward pass.
    auxiliary_weight: of the auxiliary head's loss, where there is one.
    """

    epochs: int
    lr: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    drop_path_prob: float = 0.2
    schedule: Schedule = field(default_factory=Schedule)
    auxiliary_weight: float = 0.4

    def lr_at(self, epoch: int) -> float:
        return cosine_decay(self.lr, epoch, self.epochs)

    def drop_path_at(self, epoch: int) -> float:
        return self.drop_path_prob * epoch / self.epochs


class DerivedTraining:
    """Trains a network, changed in place. An epoch depends on the state at its start, the seed and its number alone."""

    def __init__(self, network: DerivedNetwork, settings: TrainingSettings, seed: int):
        self.network = network
        self.settings = settings
        self.seed = seed
        self.optimizer = torch.optim.SGD(
            network.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay
        )

    def train_epoch(
        self, epoch: int, batches: Batches, on_step: Callable[[], object] = lambda: None
    ) -> DerivedEpochRow:
        """One pass: the mean loss, with the auxiliary head's share, and the accuracy, both while the weights change.

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

        def step(number: int, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, int, int]:
            images, labels = (tensor.to(self.device) for tensor in batch)
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
        memory = PeakMemory(self.device, self.resident(), momenta)
        loss, right, seen = map(sum, zip(*take_steps(step, batches, memory), strict=True))
        return DerivedEpochRow(
            epoch=epoch,
            loss=loss / seen,
            accuracy=right / seen,
            seconds=time.perf_counter() - started,
            peak_memory_mib=memory.mib,
            peak_memory_breakdown_mib=memory.breakdown_mib,
        )

    @property
    def device(self) -> torch.device:
        return self.network.head.weight.device

    def resident(self) -> list[torch.Tensor]:
        """The tensors that are there before it is trained."""
        return [*self.network.parameters(), *self.network.buffers()]

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
        parts = (micro_batches(tensor, self.settings.schedule) for tensor in (images, labels))
        for part, part_labels in zip(*parts, strict=True):
            keep = self.network.draw_drop_path(len(part), probability, draws) if probability > 0 else None
            logits = self.network(part, keep, self.settings.schedule.step_by_step)
            loss = 0.0
            if self.network.settings.auxiliary:
                logits, auxiliary_logits = logits
                loss = self.settings.auxiliary_weight * F.cross_entropy(auxiliary_logits, part_labels)
            loss = (F.cross_entropy(logits, part_labels) + loss) * (len(part) / len(images))
            loss.backward()
            total += loss.detach()
            right += (logits.detach().argmax(1) == part_labels).sum()
        return total, right

    def step(self) -> torch.Tensor:
        """Clips the gradient, steps, and clears it; returns its norm before, a scalar."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def accuracy(self, batches: Batches) -> float:
        """The share of right answers, BN by its running statistics."""
        return share_of_right(self.network.eval(), batches, self.device)

    def classify(self, batches: Batches) -> tuple[list[int], list[int]]:
        """The label and the given class of each image."""
        return classify(self.network.eval(), batches, self.device)

    def state_dict(self) -> dict:
        """All that the next epoch starts from, in tensors and plain values."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
