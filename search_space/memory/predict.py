"""How much memory a search will take: the peaks of its heaviest step, and of testing.

A step is run on tensors without storage (PyTorch's FakeTensorMode), under the same meter as a real one.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from models.search_cell import Mixture
from models.supernet import Supernet, SupernetSettings
from search_space.adam import MomentumFreeAdam
from search_space.architecture import EVERYTHING, Architecture, Choice
from search_space.batches import Batch
from search_space.memory.size import Size, largest_micro_batch
from search_space.search_network import SearchNetwork
from search_space.selection import EXPLORE, HISTORY, Selector
from search_space.settings import Schedule, SearchSettings
from search_space.task_search import TaskSearch
from utils.draws import Draws
from utils.memory import MIB, LiveTensorBytes

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

FEWEST_CHOICES, MOST_CHOICES = 20, 100  # that are drawn to find a heavy one


@dataclass(frozen=True)
class Prediction:
    """Peaks of live tensor bytes, in MiB, of adapting and of testing.

    breakdown_mib: adapting's parts by kind. largest: the line that holds most of it, beside parameters, and its MiB.
    process_mib: the peak of the process's resident memory, in MiB; None: not worked out.
    """

    adapting_mib: float
    testing_mib: float
    breakdown_mib: dict[str, float]
    largest: tuple[str, float]
    process_mib: float | None = None

    @property
    def peak_mib(self) -> float:
        return max(self.adapting_mib, self.testing_mib)

    def as_text(self, settings: SearchSettings) -> str:
        """One paragraph for the user, of a search with these settings."""
        line, size = self.largest
        parts = ", ".join(f"{kind} {size:.1f}" for kind, size in self.breakdown_mib.items())
        process = "" if self.process_mib is None else f"; of the process {self.process_mib:.0f} MiB"
        return (
            f"{settings.schedule.name} schedule, --split_num {settings.schedule.split_num}: predicted peak of live "
            f"tensors {self.adapting_mib:.1f} MiB adapting ({parts}; the most, {size:.1f}, held by {line}), "
            f"{self.testing_mib:.1f} MiB testing{process}"
        )


class _PlannedSearch(TaskSearch):
    """A task's search on tensors without storage. Alpha has no values there, so what gets gradient is given."""

    planned: dict[str, Mixture]

    def mixtures(self, choice: Choice = EVERYTHING) -> dict[str, Mixture]:
        return {
            cell_type: replace(
                mixture,
                coefficients=torch.zeros(mixture.coefficients.shape, requires_grad=torch.is_grad_enabled()),
            )
            for cell_type, mixture in self.planned.items()
        }


def predict(network: SupernetSettings, task: Size, settings: SearchSettings) -> Prediction:
    """The peaks of one task: the heaviest step that it is likely to have, and its testing."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # 60 MiB, for a process that plans

    searched = SearchNetwork.build(network, task.ways, seed=0)
    drawn = [
        searched.architecture.mixtures(settings.normalizer.annealed(0, 1), 0.0, choice)
        for choice in _likely_choices(searched.architecture, task, settings)
    ]
    trained = [_trained_parameters(searched.supernet, mixtures) for mixtures in drawn]
    heaviest = _heaviest(searched.supernet, drawn, trained, settings.schedule)
    search = _PlannedSearch(searched, settings, Draws(0, "plan", 0))
    search.planned = drawn[heaviest]
    test_images, test_batch = task.test_images(settings), task.test_batch(settings)
    micro_batch = largest_micro_batch(task, settings)

    storageless = FakeTensorMode()
    _take_storage(searched.supernet, storageless)
    with storageless:
        images, labels = _images(task.images(settings), task)
        adapting = _adapt(search, images, labels, micro_batch, set().union(*trained), trained[heaviest])
        support, queries = images[: task.images_in_testing()].clone(), _images(test_images, task)[0]
        testing = _test(search, support, queries, test_batch, micro_batch)
    breakdown = {kind: size / MIB for kind, size in adapting.breakdown().items()}
    line, size = adapting.largest()
    return Prediction(adapting.peak / MIB, testing.peak / MIB, breakdown, (line, size / MIB))


def _heaviest(supernet: Supernet, drawn: list[dict], trained: list[set[str]], schedule: Schedule) -> int:
    """Which of the choices that were drawn takes the most memory.

    That is decided by the activations that are there at once, which are those of one candidate step by step and those
    of all chosen ones otherwise; between equals by the parameters that get a gradient.
    """

    def size(number: int) -> tuple[float, int]:
        kept = _kept_activations(supernet, drawn[number])
        parameters = sum(supernet.get_parameter(name).numel() for name in trained[number])
        return max(kept) if schedule.step_by_step else sum(kept), parameters

    return max(range(len(drawn)), key=size)


def _adapt(
    search: TaskSearch,
    images: torch.Tensor,
    labels: torch.Tensor,
    micro_batch: int,
    with_state: set[str],
    with_gradient: set[str],
) -> LiveTensorBytes:
    """The meter of a step on a largest micro-batch.

    Args:
        with_state: the parameters that Adam has stepped before. with_gradient: those that get gradient in the step.
    """
    settings, supernet = search.settings, search.supernet
    optimizer = MomentumFreeAdam(supernet.parameters(), settings.w_lr)
    _give_gradients(supernet, with_state)
    optimizer.step()
    optimizer.zero_grad()
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    with LiveTensorBytes(search.network.resident(), [images, labels, *states]) as meter:
        search.settings = replace(settings, batch_size=micro_batch, schedule=replace(settings.schedule, split_num=1))
        batch = Batch(images, labels, torch.arange(micro_batch))
        if settings.architecture_epochs > 0:
            search.gradient_of_step(batch, batch, optimizer, EVERYTHING)
        if micro_batch < min(settings.batch_size, len(labels)):
            _give_gradients(supernet, with_gradient)  # what the micro-batches before have left
        search.weight_gradient(batch, EVERYTHING)
        optimizer.step()
        optimizer.zero_grad()
    return meter


def _test(
    search: TaskSearch, support: torch.Tensor, queries: torch.Tensor, test_batch: int, micro_batch: int
) -> LiveTensorBytes:
    """The meter of testing on a largest batch of queries.

    Args:
        support: of the images that were adapted to, those that are still in memory.
        queries: in memory. test_batch, micro_batch: images of the largest batch of testing, and of the largest
            micro-batch of adapting.
    """
    settings = search.settings
    with (
        torch.no_grad(),
        LiveTensorBytes(
            search.network.resident(), [support, queries, torch.empty(len(queries), dtype=torch.long)]
        ) as meter,
    ):
        mixtures = search.mixtures()
        if len(support) and not settings.transductive:
            search.average_batch_statistics(support[:micro_batch], mixtures)
        search.supernet.train(settings.transductive)
        search.supernet(queries[torch.arange(test_batch)], mixtures)
    return meter


def _likely_choices(architecture: Architecture, task: Size, settings: SearchSettings) -> list[Choice]:
    """As many uniform draws as a task's selection is likely to make different choices.

    A task of two steps is one of many: they are as many as a few such tasks make.
    """
    if settings.sampleno is None and not settings.beta_sampling:
        return [EVERYTHING]
    number = settings.epochs * len(task.batch_sizes(settings))
    if settings.alpha_expect and number > HISTORY:
        # Then it stays with the best, but for the share that explores.
        number = HISTORY + 1 + math.ceil(EXPLORE * (number - HISTORY))
    number = max(FEWEST_CHOICES, min(number, MOST_CHOICES))
    generator = torch.Generator().manual_seed(0)
    selector = Selector(architecture, settings.sampleno, False, settings.beta_sampling, generator)
    return [selector.choose(settings.normalizer.annealed(0, 1), 0.0, number) for _ in range(number)]


def _kept_activations(supernet: Supernet, mixtures: dict[str, Mixture]) -> list[float]:
    """About what autograd keeps of each trained candidate, in states of the first cell's size; 0 if there is none.

    A BN overwrites the convolution before it, so a convolution counts once, with or without one; a maximum keeps where
    it was as well, in integers of twice the size.
    """
    sizes, area = [0.0], 1.0
    for layer, cell in enumerate(supernet.cells):
        mixture = mixtures[supernet.settings.cell_type(layer)]
        area /= cell.stride**2
        for source in cell.sources:
            for run in source.runs(mixture):
                if not run.trained_edges(mixture):
                    continue
                layers = list(run.operation.modules())
                kept = sum(isinstance(part, (nn.Conv2d, nn.ReLU, nn.AvgPool2d)) for part in layers)
                sizes.append(area * (kept + 3 * sum(isinstance(part, nn.MaxPool2d) for part in layers)))
    return sizes


def _trained_parameters(supernet: Supernet, mixtures: dict[str, Mixture]) -> set[str]:
    """The names of those that get a gradient."""
    names = {name for name, _ in supernet.named_parameters() if ".to_node." not in name}
    name_of = {id(parameter): name for name, parameter in supernet.named_parameters()}
    for layer, cell in enumerate(supernet.cells):
        mixture = mixtures[supernet.settings.cell_type(layer)]
        runs = (run for source in cell.sources for run in source.runs(mixture) if run.trained_edges(mixture))
        names |= {name_of[id(parameter)] for run in runs for parameter in run.operation.parameters()}
    return names


def _take_storage(module: nn.Module, storageless: "FakeTensorMode") -> None:
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(storageless.from_tensor(parameter.detach())))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, storageless.from_tensor(buffer))


def _give_gradients(supernet: Supernet, names: set[str]) -> None:
    for name, parameter in supernet.named_parameters():
        if name in names:
            parameter.grad = torch.zeros_like(parameter)


def _images(number: int, task: Size) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(number, *task.shape, dtype=task.dtype), torch.empty(number, dtype=torch.long)
