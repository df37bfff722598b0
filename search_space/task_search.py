"""One task's differentiable search: adapting weights and architecture on the support set, testing on the queries."""

import time
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from models.search_cell import Mixture
from models.supernet import Supernet
from search_space.architecture import EVERYTHING, Architecture, Choice
from search_space.normalizers import Normalizer
from search_space.selection import Selector
from utils.draws import torch_generator

ALPHA_WEIGHT_DECAY = 1e-3
ADAM_BETAS = (0.0, 0.999)
Noise = dict[str, torch.Tensor] | None


@dataclass(frozen=True)
class SearchSettings:
    """How a task is adapted, in meta-training and on the device.

    epochs: passes over the support set.
    architecture_epochs: how many of them, from the first, adapt alpha and beta too.
    batch_size: images of a batch; split_num: chunks of a batch, whose gradients are accumulated.
    sampleno: candidates per edge that get gradient, None: all; alpha_expect: chosen by expectation.
    beta_sampling: one edge pair per node gets gradient.
    drop_path_prob: for meta-training only.
    transductive: a query batch is normalised by its own statistics.
    """

    epochs: int
    architecture_epochs: int
    batch_size: int
    w_lr: float
    alpha_lr: float
    split_num: int = 1
    normalizer: Normalizer = field(default_factory=Normalizer)
    prune_threshold: float = 0.01
    sampleno: int | None = None
    alpha_expect: bool = True
    beta_sampling: bool = False
    drop_path_prob: float = 0.0
    transductive: bool = True


@dataclass(frozen=True)
class Classification:
    """How the queries were classified: the share of right answers and the mean cross-entropy."""

    accuracy: float
    loss: float


def batches(order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Splits an order into batches; a last batch of a single image joins its neighbour (its BN would be empty)."""
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def chunk_count(batch: int, split_num: int) -> int:
    """How many chunks a batch is split in: ``split_num``, or fewer where a chunk would hold a single image."""
    return max(1, min(split_num, batch // 2))


def query_batches(labels: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Splits the queries into batches that hold every class equally often, of about ``batch_size`` images."""
    by_class = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    rounds = torch.stack(by_class, dim=1)  # one image of each class a row
    return [part.flatten() for part in rounds.split(max(1, batch_size // len(by_class)))]


def chunks(batch: torch.Tensor, split_num: int) -> tuple[torch.Tensor, ...]:
    """Splits a batch into micro-batches whose sizes differ by one at most."""
    return batch.tensor_split(chunk_count(len(batch), split_num))


class TaskSearch:
    """Searches one task on a supernet and an architecture, both changed in place.

    Args:
        seed, purpose, index: name the task; every draw depends on them alone.
    """

    def __init__(
        self,
        supernet: Supernet,
        architecture: Architecture,
        settings: SearchSettings,
        seed: int,
        purpose: str,
        index: int,
    ):
        self.supernet = supernet
        self.architecture = architecture
        self.settings = settings
        self._name = (seed, purpose, index)
        self.selector = Selector(
            architecture,
            settings.sampleno,
            settings.alpha_expect,
            settings.beta_sampling,
            self._generator("selection"),
        )
        self.normalizer = settings.normalizer.annealed(0, 1)
        self._drop_path_draws = self._generator("drop-path")
        self.step_seconds: list[float] = []

    def adapt(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Adapts to a support set; returns the mean loss of the last epoch.

        A step is a batch: an architecture step on a second shuffle of the support set (there is no separate
        validation set), then a weight step.

        Args:
            images: (N, C, H, W). labels: (N,).
        """
        settings, size = self.settings, len(labels)
        weight_optimizer = torch.optim.Adam(self.supernet.parameters(), settings.w_lr, ADAM_BETAS, fused=True)
        architecture_optimizer = torch.optim.Adam(
            self.architecture.parameters(), settings.alpha_lr, ADAM_BETAS, weight_decay=ALPHA_WEIGHT_DECAY, fused=True
        )
        weight_order, architecture_order = self._generator("weight batches"), self._generator("architecture batches")
        noise_draws = self._generator("noise")
        steps_left = settings.architecture_epochs * len(batches(torch.arange(size), settings.batch_size))
        loss = 0.0
        for epoch in range(settings.epochs):
            searching = epoch < settings.architecture_epochs
            if searching:
                self.normalizer = settings.normalizer.annealed(epoch, settings.architecture_epochs)
            loss = 0.0
            weight_batches = batches(torch.randperm(size, generator=weight_order), settings.batch_size)
            architecture_batches = batches(torch.randperm(size, generator=architecture_order), settings.batch_size)
            for weight_batch, architecture_batch in zip(weight_batches, architecture_batches, strict=True):
                started = time.perf_counter()
                noise = self._draw_noise(noise_draws)
                choice = self.selector.choose(self.normalizer, settings.prune_threshold, steps_left, noise)
                if searching:
                    self._architecture_gradient(images, labels, architecture_batch, choice, noise)
                    _step(architecture_optimizer)
                    self.selector.record()
                    steps_left -= 1
                batch_loss = self._weight_gradient(images, labels, weight_batch, choice, noise)
                _step(weight_optimizer)
                loss += batch_loss * len(weight_batch) / size
                self.step_seconds.append(time.perf_counter() - started)
        return loss

    def resident(self) -> list[torch.Tensor]:
        """The tensors that are there before a task is adapted: the network, and alpha and beta."""
        modules = (self.supernet, self.architecture)
        return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]

    def _generator(self, draw: str) -> torch.Generator:
        seed, purpose, index = self._name
        return torch_generator(seed, f"{purpose}/{draw}", index)

    def _draw_noise(self, generator: torch.Generator) -> Noise:
        if self.settings.normalizer.name != "gumbel_softmax":
            return None
        return self.architecture.draw_noise(generator)

    def _architecture_gradient(self, images, labels, batch, choice: Choice, noise: Noise) -> None:
        """First order: the gradient of alpha and beta at the present weights."""
        parameters = list(self.architecture.parameters())
        for chunk in chunks(batch, self.settings.split_num):
            loss = self._loss(images[chunk], labels[chunk], self._mixtures(choice, noise))
            (loss * (len(chunk) / len(batch))).backward(inputs=parameters)

    def _weight_gradient(self, images, labels, batch, choice: Choice, noise: Noise) -> float:
        """Returns the batch's loss."""
        with torch.no_grad():
            mixtures = self._mixtures(choice, noise)
        total = torch.zeros((), device=images.device)
        for chunk in chunks(batch, self.settings.split_num):
            loss = self._loss(images[chunk], labels[chunk], mixtures) * (len(chunk) / len(batch))
            loss.backward()
            total += loss.detach()
        return total.item()

    def _mixtures(self, choice: Choice = EVERYTHING, noise: Noise = None) -> dict[str, Mixture]:
        return self.architecture.mixtures(self.normalizer, self.settings.prune_threshold, choice, noise)

    def _loss(self, images: torch.Tensor, labels: torch.Tensor, mixtures: dict[str, Mixture]) -> torch.Tensor:
        self.supernet.train()
        keep = None
        if self.settings.drop_path_prob > 0:
            keep = self.supernet.draw_drop_path(len(labels), self.settings.drop_path_prob, self._drop_path_draws)
        return F.cross_entropy(self.supernet(images, mixtures, keep), labels)

    @torch.no_grad()
    def classify(self, images: torch.Tensor, labels: torch.Tensor, support: torch.Tensor) -> Classification:
        """Classifies the queries with the relaxed, soft-pruned supernet as it is now.

        Transductive: BN normalises a query batch by its own statistics; a batch holds every class equally often.
        Otherwise BN takes the average statistics of one pass over the support set, and goes image by image.

        Args:
            images: (N, C, H, W) queries. labels: (N,). support: (M, C, H, W) the support images.
        """
        mixtures = self._mixtures()
        if self.settings.transductive:
            parts = query_batches(labels, self.settings.batch_size)
        else:
            self._average_batch_statistics(support, mixtures)
            parts = torch.arange(len(labels)).split(1)
        self.supernet.train(self.settings.transductive)
        right, loss = 0, 0.0
        for part in parts:
            logits = self.supernet(images[part], mixtures)
            right += (logits.argmax(1) == labels[part]).sum().item()
            loss += F.cross_entropy(logits, labels[part], reduction="sum").item()
        return Classification(right / len(labels), loss / len(labels))

    def _average_batch_statistics(self, support: torch.Tensor, mixtures: dict[str, Mixture]) -> None:
        """Sets BN's running statistics to their average over micro-batches of the adaptation's size."""
        for norm in self.supernet.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.reset_running_stats()
                norm.momentum = None  # PyTorch's word for a cumulative average
        self.supernet.train()
        order = torch.randperm(len(support), generator=self._generator("statistics"))
        for batch in batches(order, self.settings.batch_size):
            for chunk in chunks(batch, self.settings.split_num):
                self.supernet(support[chunk], mixtures)


def _step(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()
