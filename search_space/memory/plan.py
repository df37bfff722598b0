"""How much memory a search will take, worked out before any real step, and the fastest way that fits a budget.

A step is run on tensors without storage (PyTorch's FakeTensorMode), under the same meter as a real one.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.search_cell import Mixture
from models.supernet import Supernet, SupernetSettings
from search_space.adam import MomentumFreeAdam
from search_space.architecture import EVERYTHING, Architecture, Choice
from search_space.build import build_supernet
from search_space.selection import EXPLORE, HISTORY, Selector
from search_space.task_search import (
    ORDINARY,
    Batch,
    SearchSettings,
    TaskSearch,
    batches,
    chunk_count,
    query_batches,
)
from utils.errors import BudgetError
from utils.memory import MIB, LiveTensorBytes

MOST_CHOICES = 100  # that are drawn to find a heavy one
SMALLEST_CHUNK = 3  # images: BN's statistics of fewer are too poor to plan with


@dataclass(frozen=True)
class TaskSize:
    """What a task holds: ``ways`` classes of ``shots`` support and ``queries`` query images of ``shape`` (C, H, W)."""

    ways: int
    shots: int
    queries: int
    shape: tuple[int, int, int]

    def batch_sizes(self, settings: SearchSettings) -> list[int]:
        """Images of each batch of an epoch."""
        return [len(batch) for batch in batches(torch.arange(self.ways * self.shots), settings.batch_size)]

    def images(self, settings: SearchSettings) -> int:
        """Images in memory while the task is adapted to."""
        return self.ways * self.shots

    def test_images(self, settings: SearchSettings) -> int:
        """Query images in memory while it is tested."""
        return self.ways * self.queries

    def images_in_testing(self, settings: SearchSettings) -> int:
        """Of the images that it was adapted to, those in memory while it is tested."""
        return self.images(settings)

    def test_batch(self, settings: SearchSettings) -> int:
        """Images of the largest batch of testing."""
        if not settings.transductive:
            return 1
        labels = torch.arange(self.ways * self.queries) % self.ways
        return max(map(len, query_batches(labels, settings.batch_size)))


@dataclass(frozen=True)
class FullTaskSize:
    """A full task of ``ways`` classes, ``half`` images of ``shape`` (C, H, W) in each half of the training set.

    Its batches are read one after the other, and it is tested in batches of a micro-batch's size.
    """

    ways: int
    half: int
    shape: tuple[int, int, int]

    def batch_sizes(self, settings: SearchSettings) -> list[int]:
        return [len(batch) for batch in batches(torch.arange(self.half), settings.batch_size)]

    def images(self, settings: SearchSettings) -> int:
        return 2 * max(self.batch_sizes(settings))  # a batch of the weights' half, one of the architecture's

    def test_images(self, settings: SearchSettings) -> int:
        return self.test_batch(settings)

    def images_in_testing(self, settings: SearchSettings) -> int:
        return 0

    def test_batch(self, settings: SearchSettings) -> int:
        return largest_chunk(self, settings)


Size = TaskSize | FullTaskSize


@dataclass(frozen=True)
class Prediction:
    """Peaks of live tensor bytes, in MiB, of adapting and of testing.

    breakdown_mib: adapting's parts by kind. largest: the line that holds most of it, beside parameters, and its MiB.
    """

    adapting_mib: float
    testing_mib: float
    breakdown_mib: dict[str, float]
    largest: tuple[str, float]

    @property
    def peak_mib(self) -> float:
        return max(self.adapting_mib, self.testing_mib)

    def as_text(self, settings: SearchSettings) -> str:
        """One paragraph for the user, of a search with these settings."""
        line, size = self.largest
        parts = ", ".join(f"{kind} {size:.1f}" for kind, size in self.breakdown_mib.items())
        return (
            f"{settings.schedule} schedule, --split_num {settings.split_num}: predicted peak of live tensors "
            f"{self.adapting_mib:.1f} MiB adapting ({parts}; the most, {size:.1f}, held by {line}), "
            f"{self.testing_mib:.1f} MiB testing"
        )


def largest_chunk(task: Size, settings: SearchSettings) -> int:
    """Images of the largest micro-batch."""
    return max(
        math.ceil(size / chunk_count(size, settings.split_num, settings.smallest_chunk))
        for size in set(task.batch_sizes(settings))
    )


class _PlannedSearch(TaskSearch):
    """A task's search on tensors without storage. Alpha has no values there, so what gets gradient is given."""

    planned: dict[str, Mixture]

    def mixtures(self, choice: Choice = EVERYTHING, noise=None) -> dict[str, Mixture]:
        return {
            cell_type: replace(
                mixture,
                coefficients=torch.zeros(mixture.coefficients.shape, requires_grad=torch.is_grad_enabled()),
            )
            for cell_type, mixture in self.planned.items()
        }


def predict(network: SupernetSettings, task: Size, settings: SearchSettings) -> Prediction:
    """The peaks of one task: the heaviest step that it is likely to have, and its testing."""
    supernet, architecture = build_supernet(network, task.ways, seed=0)
    drawn = [
        architecture.mixtures(settings.normalizer.annealed(0, 1), 0.0, choice)
        for choice in _likely_choices(architecture, task, settings)
    ]
    trained = [_trained_parameters(supernet, mixtures) for mixtures in drawn]
    with_state = set().union(*trained)
    if settings.schedule == ORDINARY:  # the activations of all chosen candidates are there at once: they decide
        heaviest = max(range(len(drawn)), key=lambda number: _kept_activations(supernet, drawn[number]))
    else:
        sizes = [sum(supernet.get_parameter(name).numel() for name in names) for names in trained]
        heaviest = sizes.index(max(sizes))
    with_gradient = trained[heaviest]
    chunk = largest_chunk(task, settings)
    search = _PlannedSearch(supernet, architecture, settings, 0, "plan", 0)
    search.planned = drawn[heaviest]
    test_images, test_batch = task.test_images(settings), task.test_batch(settings)
    kept = task.images_in_testing(settings)

    storageless = FakeTensorMode()
    _take_storage(supernet, storageless)
    with storageless:
        images, labels = _images(task.images(settings), task.shape)
        optimizer = MomentumFreeAdam(supernet.parameters(), settings.w_lr)
        _give_gradients(supernet, with_state)
        optimizer.step()
        optimizer.zero_grad()
        states = [tensor for state in optimizer.state.values() for tensor in state.values()]
        with LiveTensorBytes(search.resident(), [images, labels, *states]) as adapting:
            search.settings = replace(settings, batch_size=chunk, split_num=1)
            part = torch.arange(chunk)
            if settings.architecture_epochs > 0:
                batch = Batch(images, labels, part)
                search.gradient_of_step(batch, batch, optimizer, EVERYTHING, None)
            if chunk < min(settings.batch_size, len(labels)):
                _give_gradients(supernet, with_gradient)  # what the micro-batches before have left
            search.weight_gradient(images, labels, part, EVERYTHING, None)
            optimizer.step()
            optimizer.zero_grad()
        del optimizer, states
        queries, query_labels = _images(test_images, task.shape)
        images = images[:kept].clone()
        with torch.no_grad(), LiveTensorBytes(search.resident(), [images, queries, query_labels]) as testing:
            mixtures = search.mixtures()
            if kept and not settings.transductive:
                search.average_batch_statistics(images[:chunk], mixtures)
            supernet.train(settings.transductive)
            supernet(queries[torch.arange(test_batch)], mixtures)
    breakdown = {kind: size / MIB for kind, size in adapting.breakdown().items()}
    line, size = adapting.largest()
    return Prediction(adapting.peak / MIB, testing.peak / MIB, breakdown, (line, size / MIB))


def options(
    network: SupernetSettings, task: Size, settings: SearchSettings, schedules: tuple[str, ...], split_num: int | None
) -> list[list[SearchSettings]]:
    """The ways a search can be run, in lists of ever less memory, from the one to be preferred.

    For each schedule they go from the largest micro-batch to one of three images.

    Args:
        schedules: from the fastest.
        split_num: leaves no choice of the micro-batch; None: any.
    """
    if split_num is not None:
        return [[replace(settings, schedule=schedule)] for schedule in schedules]
    by_chunk = {}
    for split_num in range(1, max(1, settings.batch_size // SMALLEST_CHUNK) + 1):
        way = replace(settings, split_num=split_num, smallest_chunk=SMALLEST_CHUNK)
        by_chunk.setdefault(largest_chunk(task, way), way)
    return [[replace(way, schedule=schedule) for way in by_chunk.values()] for schedule in schedules]


def plan(
    network: SupernetSettings, task: Size, ways: list[list[SearchSettings]], budget_mib: float
) -> tuple[SearchSettings, Prediction]:
    """The first way to run a search, of :func:`options`, that fits the budget.

    Raises:
        BudgetError: none does; the message names the smallest budget that would do.
    """
    predictions: dict[SearchSettings, Prediction] = {}

    def fits(way: SearchSettings) -> bool:
        if way not in predictions:
            predictions[way] = predict(network, task, way)
        return predictions[way].peak_mib <= budget_mib

    for alike in ways:
        if fits(alike[-1]):
            way = alike[bisect_left(alike, True, key=fits)]
            return way, predictions[way]
    least = min(predictions.values(), key=lambda prediction: prediction.peak_mib)
    remedy = ""
    if least.testing_mib > least.adapting_mib and any(way.transductive for way in predictions):
        remedy = f", for testing; adapting takes {least.adapting_mib:.1f}, and --transductive 0 tests image by image"
    raise BudgetError(budget_mib, "to search", least.peak_mib, remedy)


def _likely_choices(architecture: Architecture, task: Size, settings: SearchSettings) -> list[Choice]:
    """As many uniform draws as a task's selection is likely to make different choices."""
    if settings.sampleno is None and not settings.beta_sampling:
        return [EVERYTHING]
    number = settings.epochs * len(task.batch_sizes(settings))
    if settings.alpha_expect and number > HISTORY:
        # Then it stays with the best, but for the share that explores.
        number = HISTORY + 1 + math.ceil(EXPLORE * (number - HISTORY))
    number = min(number, MOST_CHOICES)
    generator = torch.Generator().manual_seed(0)
    selector = Selector(architecture, settings.sampleno, False, settings.beta_sampling, generator)
    return [selector.choose(settings.normalizer.annealed(0, 1), 0.0, number) for _ in range(number)]


def _kept_activations(supernet: Supernet, mixtures: dict[str, Mixture]) -> float:
    """About what autograd keeps of the trained candidates, in states of the first cell's size.

    A BN overwrites the convolution before it, so a convolution counts once, with or without one; a maximum keeps where
    it was as well, in integers of twice the size.
    """
    total, area = 0.0, 1.0
    for layer, cell in enumerate(supernet.cells):
        mixture = mixtures[supernet.settings.cell_type(layer)]
        area /= cell.stride**2
        for source in cell.sources:
            for run in source.runs(mixture):
                if not run.trained_edges(mixture):
                    continue
                layers = list(run.operation.modules())
                kept = sum(isinstance(part, (nn.Conv2d, nn.ReLU, nn.AvgPool2d)) for part in layers)
                total += area * (kept + 3 * sum(isinstance(part, nn.MaxPool2d) for part in layers))
    return total


def _trained_parameters(supernet: Supernet, mixtures: dict[str, Mixture]) -> set[str]:
    """The names of those that get a gradient."""
    names = {name for name, _ in supernet.named_parameters() if ".to_node." not in name}
    name_of = {id(parameter): name for name, parameter in supernet.named_parameters()}
    for layer, cell in enumerate(supernet.cells):
        mixture = mixtures[supernet.settings.cell_type(layer)]
        runs = (run for source in cell.sources for run in source.runs(mixture) if run.trained_edges(mixture))
        names |= {name_of[id(parameter)] for run in runs for parameter in run.operation.parameters()}
    return names


def _take_storage(module: nn.Module, storageless: FakeTensorMode) -> None:
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(storageless.from_tensor(parameter.detach())))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, storageless.from_tensor(buffer))


def _give_gradients(supernet: Supernet, names: set[str]) -> None:
    for name, parameter in supernet.named_parameters():
        if name in names:
            parameter.grad = torch.zeros_like(parameter)


def _images(number: int, shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(number, *shape), torch.empty(number, dtype=torch.long)
