"""Tasks of a meta-batch adapted side by side: for each what TaskSearch does, in the calls of one."""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch.nn import functional as F

from models.batched_supernet import BatchedMixture, BatchedSupernet
from models.meta_cell import MetaCell
from models.supernet import Supernet
from search_space.adam import MomentumFreeAdam
from search_space.architecture import EVERYTHING, Architecture
from search_space.meta.batched_adam import BatchedAdam
from search_space.task_search import ALPHA_WEIGHT_DECAY, Noise, SearchSettings, TaskSearch, batches, query_batches
from utils.memory import PeakMemory

PURPOSE = "training task"


class Adapted(NamedTuple):
    """A task's state with separate cells, its last epoch's mean loss, and its accuracy on the queries."""

    state: MetaCell
    loss: float
    accuracy: float


def adapt_tasks(
    meta_cell: MetaCell,
    supernet: Supernet,
    architecture: Architecture,
    settings: SearchSettings,
    seed: int,
    first: int,
    batch: list[torch.Tensor],
    measure: bool,
) -> tuple[list[Adapted], dict]:
    """Unfolds the state and adapts it to training tasks, all that are given at once.

    One task alone, or with partial channels, is adapted by itself: see :class:`TaskSearch`.

    Args:
        first: the number of the first task, the others follow it; with the seed it settles every draw.
        batch: [support images (T, N, C, H, W), labels (T, N), query images, labels] of the T tasks.
        measure: whether to measure the peak memory of adapting.

    Returns:
        Each task's end, and the figures of the peak, none if it was not measured: of all of them, or by itself of the
        first.
    """
    if len(batch[0]) > 1 and supernet.settings.partial_channels == 1:
        return _side_by_side(meta_cell, supernet, architecture, settings, seed, first, batch, measure)
    ends, figures = [], []
    for number, task in enumerate(zip(*batch, strict=True), start=first):
        measured = measure and number == first
        end, of_memory = _alone(meta_cell, supernet, architecture, settings, seed, number, task, measured)
        ends.append(end)
        figures.append(of_memory)
    return ends, figures[0]


def _alone(meta_cell, supernet, architecture, settings, seed, task, batch, measure) -> tuple[Adapted, dict]:
    images, labels, query, query_labels = batch
    meta_cell.unfold(supernet, architecture)
    search = TaskSearch(supernet, architecture, settings, seed, PURPOSE, task)
    memory = PeakMemory(images.device, search.resident(), batch) if measure else None
    with memory or nullcontext():
        loss = search.adapt(images, labels)
    accuracy = search.classify(query, query_labels, images).accuracy
    state = MetaCell.of(supernet, architecture, separate=True)
    return Adapted(state, loss, accuracy), _figures(memory)


def _side_by_side(meta_cell, supernet, architecture, settings, seed, first, batch, measure):
    images, labels, query, query_labels = batch
    if measure:
        settings = replace(settings, compiled=False)  # the meter does not see into compiled code
    meta_cell.unfold(supernet, architecture)
    search = BatchedSearch(supernet, architecture, settings, seed, PURPOSE, range(first, first + len(images)))
    memory = PeakMemory(images.device, search.resident(), batch) if measure else None
    with memory or nullcontext():
        losses = search.adapt(images, labels)
    accuracies = search.classify(query, query_labels)
    ends = [Adapted(search.state(t), loss, accuracies[t]) for t, loss in enumerate(losses)]
    return ends, _figures(memory)


def _figures(memory: PeakMemory | None) -> dict:
    return {} if memory is None else {"peak_memory_mib": memory.mib, "peak_memory_breakdown_mib": memory.breakdown_mib}


@functools.cache
def _compiled_pass() -> Callable[..., torch.Tensor]:
    """The forward pass of :class:`BatchedSupernet`, and its backward pass, compiled; on a GPU they are CUDA graphs."""
    return torch.compile(BatchedSupernet.__call__, mode="reduce-overhead", fullgraph=True, dynamic=False)


class _Task(TaskSearch):
    """One of the tasks: its draws, its alpha and beta, and their optimizer. Its weights are in the batched supernet."""

    def start(self) -> None:
        self.optimizer = MomentumFreeAdam(
            self.architecture.parameters(), self.settings.alpha_lr, weight_decay=ALPHA_WEIGHT_DECAY
        )
        self._weight_order, self._architecture_order = (
            self._generator(f"{draw} batches") for draw in ("weight", "architecture")
        )
        self._noise_draws = self._generator("noise")

    def epoch(self, size: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The next epoch's batches of a support set of ``size`` images: the weights', and those of alpha and beta."""
        orders = (self._weight_order, self._architecture_order)
        weights, architecture = (
            batches(torch.randperm(size, generator=order), self.settings.batch_size) for order in orders
        )
        return weights, architecture

    def noise(self) -> Noise:
        """The next optimisation step's."""
        return self._draw_noise(self._noise_draws)

    def keep(self, images: int) -> torch.Tensor:
        """The next pass's drop-path factors (layers, E, k, N)."""
        return self.supernet.draw_drop_path(images, self.settings.drop_path_prob, self._drop_path_draws)


class BatchedSearch:
    """Searches tasks side by side, each with draws, alpha and beta, weights and Adam of its own.

    Args:
        supernet, architecture: the start of every task; ``supernet`` is written to by :meth:`state` only.
        indices: the tasks' numbers; with seed and purpose each names its task, as in :class:`TaskSearch`.

    Raises:
        ValueError: the settings have something that only a search on the device has.
    """

    def __init__(
        self,
        supernet: Supernet,
        architecture: Architecture,
        settings: SearchSettings,
        seed: int,
        purpose: str,
        indices: range,
    ):
        if settings.sampleno or settings.beta_sampling or settings.split_num > 1 or settings.unrolled:
            raise ValueError("tasks side by side are adapted as in meta-training: everything gets gradient at once")
        self.settings = settings
        self.net = BatchedSupernet(supernet, len(indices))
        self.tasks = [_Task(supernet, deepcopy(architecture), settings, seed, purpose, index) for index in indices]

    def resident(self) -> list[torch.Tensor]:
        """The tensors that are there before the tasks are adapted: the networks, and alpha and beta."""
        of_tasks = [tensor for task in self.tasks for tensor in task.architecture.state_dict(keep_vars=True).values()]
        return [*self.net.weights.values(), *of_tasks]

    def state(self, task: int) -> MetaCell:
        """A task's state with separate cells."""
        self.net.copy_to_supernet(task)
        return MetaCell.of(self.net.supernet, self.tasks[task].architecture, separate=True)

    def adapt(self, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
        """Adapts each task to its support set; returns their mean losses of the last epoch.

        Args:
            images: (T, N, C, H, W). labels: (T, N).
        """
        settings, size = self.settings, labels.shape[1]
        optimizer = BatchedAdam(self.net.weights.values(), settings.w_lr)
        for task in self.tasks:
            task.start()
        for epoch in range(settings.epochs):
            searching = epoch < settings.architecture_epochs
            losses = torch.zeros(len(self.tasks), dtype=torch.float64, device=labels.device)
            orders = []
            for task in self.tasks:
                if searching:
                    task.normalizer = settings.normalizer.annealed(epoch, settings.architecture_epochs)
                weights, architecture = task.epoch(size)
                orders.append(zip(weights, architecture, strict=True))
            for step in zip(*orders, strict=True):
                training, validation = (torch.stack(part) for part in zip(*step, strict=True))
                noises = [task.noise() for task in self.tasks]
                if searching:
                    self._architecture_step(_taken(images, validation), _taken(labels, validation), noises)
                done = self._weight_step(_taken(images, training), _taken(labels, training), noises, optimizer)
                losses += done.double() * (training.shape[1] / size)
        return losses.tolist()

    def _architecture_step(self, images: torch.Tensor, labels: torch.Tensor, noises: list[Noise]) -> None:
        mixtures = self._mixtures(noises)
        parameters = [parameter for task in self.tasks for parameter in task.architecture.parameters()]
        self._losses(images, labels, mixtures).sum().backward(inputs=parameters)
        for number, task in enumerate(self.tasks):
            reached = self.net.reached_types(number, mixtures)
            for name, parameter in task.architecture.named_parameters():
                if name.split(".")[1] not in reached:
                    parameter.grad = None  # it is zero, as other tasks have one: Adam would decay the parameter
            task.optimizer.step()
            task.optimizer.zero_grad()

    def _weight_step(self, images, labels, noises: list[Noise], optimizer: BatchedAdam) -> torch.Tensor:
        """Returns each task's loss before the step, (T,)."""
        with torch.no_grad():
            mixtures = self._mixtures(noises)
        losses = self._losses(images, labels, mixtures)
        losses.sum().backward()
        optimizer.step(self.net.reached_weights(mixtures))
        optimizer.zero_grad()
        return losses.detach()

    def _losses(self, images: torch.Tensor, labels: torch.Tensor, mixtures: dict[str, BatchedMixture]) -> torch.Tensor:
        """Each task's mean loss, (T,)."""
        keep = None
        if self.settings.drop_path_prob > 0:
            keep = torch.stack([task.keep(labels.shape[1]) for task in self.tasks], dim=-1)
        logits = self._run(images, mixtures, keep)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return losses.view_as(labels).mean(1)

    def _run(self, images, mixtures: dict[str, BatchedMixture], keep: torch.Tensor | None) -> torch.Tensor:
        # Each set of pruned candidates would be compiled anew, for minutes.
        if self.settings.compiled and all(mixture.runs_everything() for mixture in mixtures.values()):
            torch.compiler.cudagraph_mark_step_begin()
            return _compiled_pass()(self.net, images, mixtures, keep)
        return self.net(images, mixtures, keep)

    def _mixtures(self, noises: list[Noise]) -> dict[str, BatchedMixture]:
        of_tasks = [task.mixtures(EVERYTHING, noise) for task, noise in zip(self.tasks, noises, strict=True)]
        return {
            cell_type: BatchedMixture.of([mixtures[cell_type] for mixtures in of_tasks]) for cell_type in of_tasks[0]
        }

    @torch.no_grad()
    def classify(self, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
        """Classifies the queries, transductively: see :meth:`TaskSearch.classify`. Returns each task's accuracy.

        Args:
            images: (T, N, C, H, W). labels: (T, N).
        """
        mixtures = self._mixtures([None] * len(self.tasks))
        right = torch.zeros(len(self.tasks), dtype=torch.long, device=labels.device)
        for parts in zip(*(query_batches(own, self.settings.batch_size) for own in labels), strict=True):
            part = torch.stack(parts)
            logits = self.net(_taken(images, part), mixtures)
            right += (logits.argmax(2) == _taken(labels, part)).sum(1)
        return [number / labels.shape[1] for number in right.tolist()]


def _taken(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Each task's own elements: (T, N, ...) by index (T, B) -> (T, B, ...)."""
    tasks = torch.arange(len(index), device=tensor.device)[:, None]
    return tensor[tasks, index.to(tensor.device)]
