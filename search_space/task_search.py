"""One task's differentiable search: adapting weights and architecture on the support set, testing on the queries."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.nn import functional as F

from models.batch_norm import BatchNorm
from models.search_cell import Mixture
from models.step_by_step import MicroBatch, step_by_step_backward
from models.supernet import Supernet
from search_space.adam import MomentumFreeAdam
from search_space.architecture import EVERYTHING, Architecture, Choice
from search_space.normalizers import Normalizer
from search_space.selection import Selector
from search_space.unrolled import unrolled_architecture_gradient
from utils.draws import torch_generator

ALPHA_WEIGHT_DECAY = 1e-3
# How gradients are taken, the fastest first. ORDINARY: one backward pass over everything that autograd kept; the other
# two: step by step, see models/step_by_step.py.
ORDINARY, FASTEST, LEANEST = ("ordinary", "fastest", "leanest")
Noise = dict[str, torch.Tensor] | None


@dataclass(frozen=True)
class SearchSettings:
    """How a task is adapted, in meta-training and on the device.

    epochs: passes over the support set.
    architecture_epochs: those that adapt alpha and beta too: of a few-shot task the first, of a full one the last.
    batch_size: images of a batch; split_num: chunks of a batch, whose gradients are accumulated, each of
        smallest_chunk images at least. A single one is never enough: BN would leave nothing of it.
    sampleno: candidates per edge that get gradient, None: all; alpha_expect: chosen by expectation.
    beta_sampling: one edge pair per node gets gradient.
    schedule: ORDINARY, FASTEST or LEANEST; the gradient is the same, time and memory are not.
    drop_path_prob: for meta-training only.
    unrolled: the architecture gradient looks one weight step ahead, see search_space/unrolled.py.
    transductive: a query batch is normalised by its own statistics.
    compiled: tasks side by side run code that torch.compile made; one by itself does not.
    """

    epochs: int
    architecture_epochs: int
    batch_size: int
    w_lr: float
    alpha_lr: float
    split_num: int = 1
    smallest_chunk: int = 2
    normalizer: Normalizer = field(default_factory=Normalizer)
    prune_threshold: float = 0.01
    sampleno: int | None = None
    alpha_expect: bool = True
    beta_sampling: bool = False
    schedule: str = ORDINARY
    drop_path_prob: float = 0.0
    unrolled: bool = False
    transductive: bool = True
    compiled: bool = False


class Batch(NamedTuple):
    """A batch of a set of images (N, C, H, W) with labels (N,): those of ``index`` (B,)."""

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor


class Optimizers(NamedTuple):
    """Of the weights, and of alpha and beta."""

    weights: torch.optim.Optimizer
    architecture: torch.optim.Optimizer


class StepResult(NamedTuple):
    """Loss and accuracy on the weights' batch, and accuracy on that of alpha and beta, None without one.

    Each before its own step; with ``unrolled`` the latter one weight step ahead.
    """

    loss: float
    accuracy: float
    validation_accuracy: float | None


class Step(NamedTuple):
    """What a step was and did, as ``on_step`` is told.

    steps_left: architecture steps left before it, itself included.
    """

    optimizers: Optimizers
    choice: Choice
    steps_left: int
    result: StepResult


@dataclass(frozen=True)
class Classification:
    """How the queries were classified: the share of right answers, the mean cross-entropy, and the class of each."""

    accuracy: float
    loss: float
    predictions: list[int]


def batches(order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Splits an order into batches; a last batch of a single image joins its neighbour (its BN would be empty)."""
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def chunk_count(batch: int, split_num: int, smallest: int = 2) -> int:
    """How many chunks a batch is split in: ``split_num``, or fewer where one would hold under ``smallest`` images."""
    return max(1, min(split_num, batch // smallest))


def query_batches(labels: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Splits the queries into batches that hold every class equally often, of about ``batch_size`` images."""
    by_class = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    rounds = torch.stack(by_class, dim=1)  # one image of each class a row
    return [part.flatten() for part in rounds.split(max(1, batch_size // len(by_class)))]


def chunks(batch: torch.Tensor, split_num: int, smallest: int = 2) -> tuple[torch.Tensor, ...]:
    """Splits a batch into micro-batches whose sizes differ by one at most; see :func:`chunk_count`."""
    return batch.tensor_split(chunk_count(len(batch), split_num, smallest))


class _Criterion:
    """A micro-batch's share of its batch's loss; remembers ``right``, its share of what was classified rightly."""

    def __init__(self, labels: torch.Tensor, share: float):
        self._labels = labels
        self._share = share

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        self.right = (logits.detach().argmax(1) == self._labels).float().mean() * self._share
        return F.cross_entropy(logits, self._labels) * self._share


class TaskSearch:
    """Searches one task on a supernet and an architecture, both changed in place.

    Args:
        seed, purpose, index: name the task; every draw depends on them alone.

    Attributes:
        on_step: is told of each step after it, with the search as it is then; None: nothing is.
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
        self.on_step: Callable[[TaskSearch, Step], None] | None = None

    def adapt(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Adapts to a support set; returns the mean loss of the last epoch.

        A step is a batch: an architecture step on a second shuffle of the support set (there is no separate
        validation set), then a weight step.

        Args:
            images: (N, C, H, W). labels: (N,).
        """
        settings, size = self.settings, len(labels)
        optimizers = self.new_optimizers()
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
                validation = Batch(images, labels, architecture_batch) if searching else None
                done = self.step(optimizers, Batch(images, labels, weight_batch), validation, steps_left, noise_draws)
                steps_left -= searching
                loss += done.loss * len(weight_batch) / size
        return loss

    def new_optimizers(self) -> Optimizers:
        return Optimizers(
            MomentumFreeAdam(self.supernet.parameters(), self.settings.w_lr),
            MomentumFreeAdam(self.architecture.parameters(), self.settings.alpha_lr, weight_decay=ALPHA_WEIGHT_DECAY),
        )

    def step(
        self,
        optimizers: Optimizers,
        training: Batch,
        validation: Batch | None,
        steps_left: int,
        noise_draws: torch.Generator,
    ) -> StepResult:
        """An architecture step on ``validation``, if there is one, then a weight step on ``training``.

        Args:
            steps_left: architecture steps left, this one included.
        """
        started = time.perf_counter()
        noise = self._draw_noise(noise_draws)
        choice = self.selector.choose(self.normalizer, self.settings.prune_threshold, steps_left, noise)
        if validation is not None:
            validated = self.gradient_of_step(training, validation, optimizers.weights, choice, noise)
            _step(optimizers.architecture)
            self.selector.record()
        loss, accuracy = self.weight_gradient(*training, choice, noise).tolist()
        _step(optimizers.weights)
        self.step_seconds.append(time.perf_counter() - started)
        result = StepResult(loss, accuracy, None if validation is None else validated[1].item())
        if self.on_step is not None:
            self.on_step(self, Step(optimizers, choice, steps_left, result))
        return result

    def gradient_of_step(
        self, training: Batch, validation: Batch, weights: torch.optim.Optimizer, choice: Choice, noise: Noise
    ) -> torch.Tensor:
        """That of alpha and beta for an architecture step; see :meth:`architecture_gradient`."""
        if not self.settings.unrolled:
            return self.architecture_gradient(*validation, choice, noise)
        w_lr = weights.param_groups[0]["lr"]
        return unrolled_architecture_gradient(self, training, validation, w_lr, choice, noise)

    def resident(self) -> list[torch.Tensor]:
        """The tensors that are there before a task is adapted: the network, and alpha and beta."""
        modules = (self.supernet, self.architecture)
        return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]

    def _chunks(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return chunks(batch, self.settings.split_num, self.settings.smallest_chunk)

    def _generator(self, draw: str) -> torch.Generator:
        seed, purpose, index = self._name
        return torch_generator(seed, f"{purpose}/{draw}", index)

    def _draw_noise(self, generator: torch.Generator) -> Noise:
        if self.settings.normalizer.name != "gumbel_softmax":
            return None
        return self.architecture.draw_noise(generator)

    def architecture_gradient(
        self, images, labels, batch, choice: Choice, noise: Noise, of_weights: bool = False
    ) -> torch.Tensor:
        """First order: the gradient of alpha and beta at the present weights, and that of the weights if asked for.

        Returns (2,): the batch's loss and the share of it that was classified rightly.
        """
        return self._gradient(images, labels, batch, lambda: self.mixtures(choice, noise), of_weights)

    def weight_gradient(self, images, labels, batch, choice: Choice, noise: Noise) -> torch.Tensor:
        """Returns (2,): the batch's loss and the share of it that was classified rightly."""
        with torch.no_grad():
            mixtures = self.mixtures(choice, noise)
        return self._gradient(images, labels, batch, lambda: mixtures, of_weights=True)

    def _gradient(
        self, images, labels, batch, mixtures: Callable[[], dict[str, Mixture]], of_weights: bool
    ) -> torch.Tensor:
        """Adds a batch's gradient: that of the weights, and that of alpha and beta where the mixtures have one.

        Args:
            mixtures: makes those of a micro-batch.

        Returns (2,): the batch's loss and the share of it that was classified rightly.
        """
        if not self.supernet.training:  # it walks over a thousand modules
            self.supernet.train()
        total = torch.zeros(2, device=images.device)
        for part in self._chunks(batch):
            criterion = _Criterion(labels[part], len(part) / len(batch))
            micro_batch = MicroBatch(images[part], mixtures(), criterion, self._draw_keep(len(part)))
            loss = self._backward(micro_batch, of_weights)
            total += torch.stack([loss, criterion.right])
        return total

    def _draw_keep(self, images: int) -> torch.Tensor | None:
        """A micro-batch's drop-path factors."""
        if self.settings.drop_path_prob == 0:
            return None
        return self.supernet.draw_drop_path(images, self.settings.drop_path_prob, self._drop_path_draws)

    def _backward(self, micro_batch: MicroBatch, of_weights: bool) -> torch.Tensor:
        """Adds the gradient of a micro-batch; returns its loss."""
        if self.settings.schedule != ORDINARY:
            keep_inputs = self.settings.schedule == FASTEST
            return step_by_step_backward(self.supernet, micro_batch, of_weights=of_weights, keep_inputs=keep_inputs)
        loss = micro_batch.criterion(self.supernet(micro_batch.images, micro_batch.mixtures, micro_batch.keep))
        loss.backward(inputs=None if of_weights else list(self.architecture.parameters()))
        return loss.detach()

    def mixtures(self, choice: Choice = EVERYTHING, noise: Noise = None) -> dict[str, Mixture]:
        return self.architecture.mixtures(self.normalizer, self.settings.prune_threshold, choice, noise)

    @torch.no_grad()
    def classify(self, images: torch.Tensor, labels: torch.Tensor, support: torch.Tensor) -> Classification:
        """Classifies the queries with the relaxed, soft-pruned supernet as it is now.

        Transductive: BN normalises a query batch by its own statistics; a batch holds every class equally often.
        Otherwise BN takes the average statistics of one pass over the support set, and goes image by image.

        Args:
            images: (N, C, H, W) queries. labels: (N,). support: (M, C, H, W) the support images.
        """
        mixtures = self.mixtures()
        if self.settings.transductive:
            parts = query_batches(labels, self.settings.batch_size)
        else:
            self.average_batch_statistics(support, mixtures)
            parts = torch.arange(len(labels)).split(1)
        self.supernet.train(self.settings.transductive)
        predictions, loss = {}, 0.0
        for part in parts:
            logits = self.supernet(images[part], mixtures)
            predictions |= zip(part.tolist(), logits.argmax(1).tolist(), strict=True)
            loss += F.cross_entropy(logits, labels[part], reduction="sum").item()
        right = sum(predictions[query] == label for query, label in enumerate(labels.tolist()))
        in_order = [predictions[query] for query in range(len(labels))]
        return Classification(right / len(labels), loss / len(labels), in_order)

    def average_batch_statistics(self, support: torch.Tensor, mixtures: dict[str, Mixture]) -> None:
        """Sets BN's running statistics to their average over micro-batches of the adaptation's size."""
        norms = [module for module in self.supernet.modules() if isinstance(module, BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
        self.supernet.train()
        order = torch.randperm(len(support), generator=self._generator("statistics"))
        parts = [chunk for batch in batches(order, self.settings.batch_size) for chunk in self._chunks(batch)]
        for number, part in enumerate(parts, start=1):
            for norm in norms:
                norm.momentum = 1 / number  # the average over those so far
            self.supernet(support[part], mixtures)


def _step(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()
