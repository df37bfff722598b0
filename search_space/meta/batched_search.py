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
from models.search_cell import Mixture
from search_space.architecture import Choice, Noise
from search_space.batches import BatchOrders, query_batches
from search_space.evaluation import TRAINING_TASK, Start
from search_space.meta.batched_adam import BatchedAdam
from search_space.search_network import SearchNetwork
from search_space.settings import META, SearchSettings
from search_space.task_search import TaskSearch, reason_to_diverge
from utils.data.episode import Episode
from utils.draws import Draws
from utils.errors import InputError
from utils.memory import PeakMemory


class Adapted(NamedTuple):
    """A task's state with separate cells, its last epoch's mean loss, and its accuracy on the queries."""

    state: MetaCell
    loss: float
    accuracy: float


def adapt_tasks(start: Start, episodes: list[Episode], measure: bool) -> tuple[list[Adapted], dict]:
    """Unfolds the state and adapts it to training tasks, all that are given at once.

    One task alone, or with partial channels, is adapted by itself: see :class:`TaskSearch`.

    Args:
        measure: whether to measure the peak memory of adapting.

    Returns:
        Each task's end, and the figures of the peak, none if it was not measured: of all of them, or by itself of the
        first.

    Raises:
        InputError: a loss is not finite.
    """
    if len(episodes) > 1 and start.network.settings.partial_channels == 1:
        return _side_by_side(start, episodes, measure)
    ends, figures = zip(*(_alone(start, task, measure and task is episodes[0]) for task in episodes), strict=True)
    return list(ends), figures[0]


def _alone(start: Start, episode: Episode, measure: bool) -> tuple[Adapted, dict]:
    images, labels, queries, query_labels = data = _data(start, [episode])
    search = start.unfold(TRAINING_TASK, episode.number)
    memory = PeakMemory(images.device, search.network.resident(), data) if measure else None
    with memory or nullcontext():
        loss = search.adapt(images[0], labels[0])
    search.refuse_divergence(f"training task {episode.number}")
    accuracy = search.classify(queries[0], query_labels[0], images[0]).accuracy
    return Adapted(search.network.state(separate=True), loss, accuracy), _figures(memory)


def _side_by_side(start: Start, episodes: list[Episode], measure: bool) -> tuple[list[Adapted], dict]:
    images, labels, queries, query_labels = data = _data(start, episodes)
    # The meter does not see into compiled code.
    settings = replace(start.settings, compiled=False) if measure else start.settings
    start.network.unfold(start.meta_cell)
    draws = [Draws(start.seed, TRAINING_TASK, episode.number) for episode in episodes]
    search = BatchedSearch(start.network, settings, draws)
    memory = PeakMemory(images.device, search.resident(), data) if measure else None
    with memory or nullcontext():
        losses = search.adapt(images, labels)
    accuracies = search.classify(queries, query_labels)
    ends = [Adapted(search.state(t), loss, accuracies[t]) for t, loss in enumerate(losses)]
    return ends, _figures(memory)


def _data(start: Start, episodes: list[Episode]) -> list[torch.Tensor]:
    """[support images (T, N, C, H, W), labels (T, N), query images, labels] of the T tasks."""
    names = ("support", "support_labels", "query", "query_labels")
    parts = ([getattr(episode, name) for episode in episodes] for name in names)
    return [torch.stack(part).to(start.network.device) for part in parts]


def _figures(memory: PeakMemory | None) -> dict:
    return {} if memory is None else {"peak_memory_mib": memory.mib, "peak_memory_breakdown_mib": memory.breakdown_mib}


@functools.cache
def _compiled_pass() -> Callable[..., torch.Tensor]:
    """The forward pass of :class:`BatchedSupernet`, and its backward pass, compiled; on a GPU they are CUDA graphs."""
    return torch.compile(BatchedSupernet.__call__, mode="reduce-overhead", fullgraph=True, dynamic=False)


class BatchedSearch:
    """Searches tasks side by side, each with draws, alpha and beta, weights and Adam of its own.

    Args:
        network: the start of every task; its supernet is written to by :meth:`state` only.
        draws: name the tasks, as in :class:`TaskSearch`.

    Raises:
        ValueError: the settings have something that only a search on the device has.
    """

    def __init__(self, network: SearchNetwork, settings: SearchSettings, draws: list[Draws]):
        if settings.sampleno or settings.beta_sampling or settings.schedule.split_num > 1 or settings.unrolled:
            raise ValueError("tasks side by side are adapted as in meta-training: everything gets gradient at once")
        self.settings = settings
        self.net = BatchedSupernet(network.supernet, len(draws))
        # Of each task its draws, its alpha and beta. Its weights are in the batched supernet.
        self.tasks = [
            TaskSearch(SearchNetwork(network.supernet, deepcopy(network.architecture)), settings, task)
            for task in draws
        ]

    def resident(self) -> list[torch.Tensor]:
        """The tensors that are there before the tasks are adapted: the networks, and alpha and beta."""
        of_tasks = [tensor for task in self.tasks for tensor in task.architecture.state_dict(keep_vars=True).values()]
        return [*self.net.weights.values(), *of_tasks]

    def state(self, task: int) -> MetaCell:
        """A task's state with separate cells."""
        self.net.copy_to_supernet(task)
        return self.tasks[task].network.state(separate=True)

    def adapt(self, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
        """Adapts each task to its support set; returns their mean losses of the last epoch.

        Args:
            images: (T, N, C, H, W). labels: (T, N).

        Raises:
            InputError: a loss is not finite.
        """
        settings, size = self.settings, labels.shape[1]
        if settings.head_init != META:
            self._start_heads(images, labels)
        weights = BatchedAdam(self.net.weights.values(), settings.w_lr)
        architectures = [task.new_architecture_optimizer() for task in self.tasks]
        orders = [BatchOrders(task.draws, size, settings.batch_size) for task in self.tasks]
        first, found = True, None
        for epoch in range(settings.epochs):
            if epoch == settings.epochs - settings.found_epochs:
                found = _side_by_side_mixtures([task.found_mixtures() for task in self.tasks])
            searching = epoch < settings.architecture_epochs
            losses = torch.zeros(len(self.tasks), dtype=torch.float64, device=labels.device)
            if searching:
                for task in self.tasks:
                    task.normalizer = settings.normalizer.annealed(epoch, settings.architecture_epochs)
            for step in zip(*(order.epoch() for order in orders), strict=True):
                training, validation = (torch.stack(part) for part in zip(*step, strict=True))
                noises = [task.draw_noise() for task in self.tasks]
                validated = None
                if searching:
                    validated = self._architecture_step(
                        _taken(images, validation), _taken(labels, validation), noises, architectures
                    )
                done = self._weight_step(_taken(images, training), _taken(labels, training), noises, weights, found)
                reason = reason_to_diverge(settings, validated, done.sum().item(), first)
                if reason is not None:
                    raise InputError(f"a training task diverged, its loss is not finite: {reason}.")
                losses += done.double() * (training.shape[1] / size)
                first = False
        return losses.tolist()

    @torch.no_grad()
    def _start_heads(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        for number, task in enumerate(self.tasks):
            task.start_head(images[number], labels[number])
            for name, parameter in task.supernet.head.named_parameters(prefix="head"):
                self.net.weights[name][number].copy_(parameter)

    def _architecture_step(self, images, labels, noises: list[Noise], optimizers: list) -> float:
        """Returns the sum of the tasks' losses before the step."""
        mixtures = self._mixtures(noises)
        parameters = [parameter for task in self.tasks for parameter in task.architecture.parameters()]
        loss = self._losses(images, labels, mixtures).sum()
        loss.backward(inputs=parameters)
        for number, (task, optimizer) in enumerate(zip(self.tasks, optimizers, strict=True)):
            reached = self.net.reached_types(number, mixtures)
            for name, parameter in task.architecture.named_parameters():
                if name.split(".")[1] not in reached:
                    parameter.grad = None  # it is zero, as other tasks have one: Adam would decay the parameter
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    def _weight_step(self, images, labels, noises: list[Noise], optimizer: BatchedAdam, found: dict | None):
        """Returns each task's loss before the step, (T,).

        Args:
            found: the mixtures of the found networks, whose weights alone are then trained.
        """
        with torch.no_grad():
            mixtures = found or self._mixtures(noises)
        losses = self._losses(images, labels, mixtures)
        losses.sum().backward()
        optimizer.step(self.net.reached_weights(mixtures))
        optimizer.zero_grad()
        return losses.detach()

    def _losses(self, images: torch.Tensor, labels: torch.Tensor, mixtures: dict[str, BatchedMixture]) -> torch.Tensor:
        """Each task's mean loss, (T,)."""
        factors = [task.draw_keep(labels.shape[1]) for task in self.tasks]
        keep = None if factors[0] is None else torch.stack(factors, dim=-1)
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
        return _side_by_side_mixtures(
            [task.mixtures(Choice(noise=noise)) for task, noise in zip(self.tasks, noises, strict=True)]
        )

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


def _side_by_side_mixtures(of_tasks: list[dict[str, Mixture]]) -> dict[str, BatchedMixture]:
    return {cell_type: BatchedMixture.of([mixtures[cell_type] for mixtures in of_tasks]) for cell_type in of_tasks[0]}


def _taken(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Each task's own elements: (T, N, ...) by index (T, B) -> (T, B, ...)."""
    tasks = torch.arange(len(index), device=tensor.device)[:, None]
    return tensor[tasks, index.to(tensor.device)]
