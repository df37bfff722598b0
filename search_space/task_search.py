"""One task's differentiable search: adapting weights and architecture on the support set, testing on the queries."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch.nn import functional as F

from models.batch_norm import average_statistics
from models.search_cell import Mixture
from models.step_by_step import MicroBatch, step_by_step_backward
from search_space.adam import MomentumFreeAdam
from search_space.architecture import EVERYTHING, Choice, Noise
from search_space.batches import Batch, BatchOrders, batches, micro_batches, query_batches
from search_space.found import genotype_mixtures
from search_space.head_start import centroid_head
from search_space.search_network import SearchNetwork
from search_space.selection import Selector
from search_space.settings import CENTROID, FASTEST, ZERO, SearchSettings
from search_space.unrolled import unrolled_architecture_gradient
from utils.draws import Draws
from utils.errors import InputError

ALPHA_WEIGHT_DECAY = 1e-3
TOO_LARGE = "the meta-cell's numbers are too large, name another --meta_cell or train it with a smaller --w_meta_lr"


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

    choice: without the noise, which would stay in memory as long as the record.
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


class _Criterion:
    """A micro-batch's share of its batch's loss; remembers ``right``, its share of what was classified rightly."""

    def __init__(self, labels: torch.Tensor, share: float):
        self._labels = labels
        self._share = share

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        self.right = (logits.detach().argmax(1) == self._labels).float().mean() * self._share
        return F.cross_entropy(logits, self._labels) * self._share


class TaskSearch:
    """Searches one task on a network, changed in place.

    Args:
        draws: names the task.

    Attributes:
        on_step: is told of each step after it, with the search as it is then; None: nothing is.
        diverged: what the loss is not finite because of, in words; None: it is finite.
    """

    def __init__(self, network: SearchNetwork, settings: SearchSettings, draws: Draws):
        self.network = network
        self.supernet, self.architecture = network.supernet, network.architecture
        self.settings = settings
        self.draws = draws
        self.selector = Selector(
            network.architecture,
            settings.sampleno,
            settings.alpha_expect,
            settings.beta_sampling,
            draws.generator("selection"),
        )
        self.normalizer = settings.normalizer.annealed(0, 1)
        self.noise_draws = draws.generator("noise")
        self.drop_path_draws = draws.generator("drop-path")
        self.step_seconds: list[float] = []
        self.on_step: Callable[[TaskSearch, Step], None] | None = None
        self.diverged: str | None = None

    def adapt(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Adapts to a support set; returns the mean loss of the last epoch.

        A step is a batch: an architecture step on a second shuffle of the support set (there is no separate
        validation set), then a weight step.

        Args:
            images: (N, C, H, W). labels: (N,).
        """
        settings, size = self.settings, len(labels)
        self.start_head(images, labels)
        optimizers = self.new_optimizers()
        orders = BatchOrders(self.draws, size, settings.batch_size)
        steps_left = settings.architecture_epochs * len(batches(torch.arange(size), settings.batch_size))
        loss, found = 0.0, None
        for epoch in range(settings.epochs):
            if epoch == settings.epochs - settings.found_epochs:
                found = self.found_mixtures()
            searching = epoch < settings.architecture_epochs
            if searching:
                self.normalizer = settings.normalizer.annealed(epoch, settings.architecture_epochs)
            loss = 0.0
            for weight_batch, architecture_batch in orders.epoch():
                validation = Batch(images, labels, architecture_batch) if searching else None
                done = self.step(optimizers, Batch(images, labels, weight_batch), validation, steps_left, found)
                steps_left -= searching
                loss += done.loss * len(weight_batch) / size
        return loss

    @torch.no_grad()
    def start_head(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Sets the head to where ``head_init`` says that it starts; see :meth:`adapt`."""
        head, how = self.supernet.head, self.settings.head_init
        if how == ZERO:
            head.weight.zero_()
            head.bias.zero_()
        if how != CENTROID:
            return
        mixtures = self.mixtures()
        self.average_batch_statistics(images, mixtures)
        self.supernet.eval()
        batch_size = self.settings.schedule.largest(self.settings.batch_size)  # as many at a time as in adapting
        features = torch.cat([self.supernet.features(part, mixtures) for part in images.split(batch_size)])
        weight, bias = centroid_head(features, labels, head.out_features)
        head.weight.copy_(weight)
        head.bias.copy_(bias)

    def new_optimizers(self) -> Optimizers:
        """Fresh ones, as each task starts with."""
        return Optimizers(
            MomentumFreeAdam(self.supernet.parameters(), self.settings.w_lr), self.new_architecture_optimizer()
        )

    def new_architecture_optimizer(self) -> MomentumFreeAdam:
        """That of alpha and beta."""
        return MomentumFreeAdam(self.architecture.parameters(), self.settings.alpha_lr, weight_decay=ALPHA_WEIGHT_DECAY)

    def draw_noise(self) -> Noise:
        """The next optimisation step's Gumbel noise; None where the normalizer has none."""
        if self.settings.normalizer.name != "gumbel_softmax":
            return None
        return self.architecture.draw_noise(self.noise_draws)

    def draw_keep(self, images: int) -> torch.Tensor | None:
        """The next micro-batch's drop-path factors (layers, E, k, N)."""
        if self.settings.drop_path_prob == 0:
            return None
        return self.supernet.draw_drop_path(images, self.settings.drop_path_prob, self.drop_path_draws)

    def step(
        self,
        optimizers: Optimizers,
        training: Batch,
        validation: Batch | None,
        steps_left: int,
        found: dict[str, Mixture] | None = None,
    ) -> StepResult:
        """An architecture step on ``validation``, if there is one, then a weight step on ``training``.

        Args:
            steps_left: architecture steps left, this one included.
            found: the mixtures of the found network, whose weights alone are then trained; None: those of the relaxed.
        """
        started, validated = time.perf_counter(), None
        choice = self.selector.choose(self.normalizer, self.settings.prune_threshold, steps_left, self.draw_noise())
        if validation is not None:
            validated = self.gradient_of_step(training, validation, optimizers.weights, choice)
            _step(optimizers.architecture)
            self.selector.record()
        loss, accuracy = self.weight_gradient(training, choice, found).tolist()
        _step(optimizers.weights)
        result = StepResult(loss, accuracy, None if validated is None else validated[1].item())
        self.step_seconds.append(time.perf_counter() - started)
        if self.diverged is None:
            before = None if validated is None else validated[0].item()
            self.diverged = reason_to_diverge(self.settings, before, loss, first=len(self.step_seconds) == 1)
        if self.on_step is not None:
            self.on_step(self, Step(optimizers, replace(choice, noise=None), steps_left, result))
        return result

    def gradient_of_step(
        self, training: Batch, validation: Batch, weights: torch.optim.Optimizer, choice: Choice
    ) -> torch.Tensor:
        """That of alpha and beta for an architecture step; see :meth:`architecture_gradient`."""
        if not self.settings.unrolled:
            return self.architecture_gradient(validation, choice)
        w_lr = weights.param_groups[0]["lr"]
        return unrolled_architecture_gradient(self, training, validation, w_lr, choice)

    def refuse_divergence(self, work: str) -> None:
        """Raises:
        InputError: a loss was not finite; ``work``, as "the search of task 3", is named in the message.
        """
        if self.diverged is not None:
            raise InputError(f"{work} diverged, its loss is not finite: {self.diverged}.")

    def architecture_gradient(self, batch: Batch, choice: Choice, of_weights: bool = False) -> torch.Tensor:
        """First order: the gradient of alpha and beta at the present weights, and that of the weights if asked for.

        Returns (2,): the batch's loss and the share of it that was classified rightly.
        """
        return self._gradient(batch, lambda: self.mixtures(choice), of_weights)

    def weight_gradient(self, batch: Batch, choice: Choice, found: dict[str, Mixture] | None = None) -> torch.Tensor:
        """That of the relaxed network's weights, or of the found one's.

        Returns (2,): the batch's loss and the share of it that was classified rightly.
        """
        with torch.no_grad():
            mixtures = found or self.mixtures(choice)
        return self._gradient(batch, lambda: mixtures, of_weights=True)

    def _gradient(self, batch: Batch, mixtures: Callable[[], dict[str, Mixture]], of_weights: bool) -> torch.Tensor:
        """Adds a batch's gradient: that of the weights, and that of alpha and beta where the mixtures have one.

        Args:
            mixtures: makes those of a micro-batch.

        Returns (2,): the batch's loss and the share of it that was classified rightly.
        """
        if not self.supernet.training:  # it walks over a thousand modules
            self.supernet.train()
        images, labels, index = batch
        total = torch.zeros(2, device=images.device)
        for part in micro_batches(index, self.settings.schedule):
            criterion = _Criterion(labels[part], len(part) / len(index))
            micro_batch = MicroBatch(images[part], mixtures(), criterion, self.draw_keep(len(part)))
            total += torch.stack([self._backward(micro_batch, of_weights), criterion.right])
        return total

    def _backward(self, micro_batch: MicroBatch, of_weights: bool) -> torch.Tensor:
        """Adds the gradient of a micro-batch; returns its loss."""
        schedule = self.settings.schedule
        if schedule.step_by_step:
            keep_inputs = schedule.name == FASTEST
            return step_by_step_backward(self.supernet, micro_batch, of_weights=of_weights, keep_inputs=keep_inputs)
        loss = micro_batch.criterion(self.supernet(micro_batch.images, micro_batch.mixtures, micro_batch.keep))
        loss.backward(inputs=None if of_weights else list(self.architecture.parameters()))
        return loss.detach()

    def mixtures(self, choice: Choice = EVERYTHING) -> dict[str, Mixture]:
        """How the candidates are mixed now, by cell type."""
        return self.architecture.mixtures(self.normalizer, self.settings.prune_threshold, choice)

    def found_mixtures(self) -> dict[str, Mixture]:
        """Those of the network that alpha and beta point to now, by cell type."""
        return genotype_mixtures(self.network.genotype(), self.network.settings, like=self.supernet.head.weight)

    @torch.no_grad()
    def classify(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        support: torch.Tensor,
        found: dict[str, Mixture] | None = None,
    ) -> Classification:
        """Classifies the queries with the relaxed, soft-pruned supernet as it is now, or with the found network.

        Transductive: BN normalises a query batch by its own statistics; a batch holds every class equally often.
        Otherwise, and with the found network always, BN takes the average statistics of one pass over the support set:
        an image is classified as if it were alone, and goes through with as many others as adapting has at once.

        Args:
            images: (N, C, H, W) queries. labels: (N,). support: (M, C, H, W) the support images.
            found: the mixtures of the found network; None: the relaxed one classifies.
        """
        mixtures = found or self.mixtures()
        transductive = self.settings.transductive and found is None
        if transductive:
            parts = query_batches(labels, self.settings.query_batch or self.settings.batch_size)
        else:
            self.average_batch_statistics(support, mixtures)
            at_once = self.settings.schedule.largest(min(self.settings.batch_size, len(support)))
            parts = torch.arange(len(labels)).split(at_once)
        self.supernet.train(transductive)
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
        order = torch.randperm(len(support), generator=self.draws.generator("statistics"))
        whole = batches(order, self.settings.batch_size)
        parts = [part for batch in whole for part in micro_batches(batch, self.settings.schedule)]
        average_statistics(self.supernet, parts, lambda part: self.supernet(support[part], mixtures))


def reason_to_diverge(settings: SearchSettings, validated: float | None, trained: float, first: bool) -> str | None:
    """Why a loss of a step is not finite: what was stepped on last before it; None if both are finite.

    Args:
        validated, trained: the losses of the architecture step, None without one, and of the weight step after it.
        first: nothing was stepped on before.
    """
    if math.isfinite(trained) and (validated is None or math.isfinite(validated)):
        return None
    if validated is not None and math.isfinite(validated):
        return f"--alpha_lr must be smaller than {settings.alpha_lr:g}"
    if first and not settings.unrolled:
        return TOO_LARGE
    return f"--w_lr must be smaller than {settings.w_lr:g}"


def _step(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()
