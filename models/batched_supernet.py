"""Several copies of a supernet side by side in the channels, each with weights of its own, run and trained as one.

T tasks of N images each are N images of T times the channels: a convolution becomes a grouped one, a pool stays what it
is, and BN's statistics, which are of a channel, are of a task by themselves. So T small tasks cost the calls of one.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from models.batch_norm import BatchNorm
from models.batched_mix import EPSILON, Term, mix, with_statistics
from models.operations import FactorizedReduce, Skip, offset_pixels
from models.search_cell import NEWER, OLDER, Mixture, SearchCell, Source
from models.supernet import STEM, Supernet
from utils.data.pixels import unit_range

Booleans = list[list[bool]]


@dataclass(frozen=True)
class BatchedMixture:
    """How the cells of one type of T tasks mix their candidates, E edges of k candidates each.

    coefficients: (E, k, T), zero for a candidate that its task does not run.
    active: E lists of k booleans, whether a task runs a candidate: then all do.
    of_tasks: T times such lists, those of each task.
    """

    coefficients: torch.Tensor
    active: Booleans
    of_tasks: list[Booleans]

    @classmethod
    def of(cls, mixtures: list[Mixture]) -> "BatchedMixture":
        """Of one mixture for each task, of which every active candidate is trained."""
        of_tasks = [mixture.active for mixture in mixtures]
        active = [[any(column) for column in zip(*rows, strict=True)] for rows in zip(*of_tasks, strict=True)]
        coefficients = torch.stack([mixture.coefficients for mixture in mixtures], dim=-1)
        mixture = cls(coefficients, active, of_tasks)
        if mixture.runs_everything():
            return mixture
        mask = torch.tensor(of_tasks, device=coefficients.device).permute(1, 2, 0)
        return cls(torch.where(mask, coefficients, 0.0), active, of_tasks)

    def runs_everything(self) -> bool:
        """Whether no task has pruned a candidate."""
        return all(value for task in self.of_tasks for edge in task for value in edge)

    def of_task(self, task: int) -> Mixture:
        return Mixture(self.coefficients[..., task], self.of_tasks[task], self.of_tasks[task])

    def weights(self, keep: torch.Tensor | None) -> list[list[torch.Tensor]]:
        """E lists of k tensors (N, T), or (1, T) without drop-path factors ``keep`` (E, k, N, T)."""
        weights = self.coefficients[:, :, None]
        return [row.unbind() for row in (weights if keep is None else weights * keep).unbind()]


# --- The layers of models/operations.py, whose weights are (T, *shape) here -------------------------------------------


def grouped(x: torch.Tensor, weight: torch.Tensor, stride=1, padding=0, dilation=1) -> torch.Tensor:
    """Each task's convolution: x (N, T*C, H, W), weight (T, C_out, C_in, h, w) -> (N, T*C_out, H', W')."""
    return F.conv2d(x, weight.flatten(0, 1), None, stride, padding, dilation, groups=x.shape[1] // weight.shape[2])


def dilated(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """A depthwise convolution of dilation 2: an ordinary one of every second pixel, which is several times faster.

    With stride 1 the four images of every second row and column go through it side by side.
    """
    padding = weight.shape[-1] // 2
    if stride == 2:
        return grouped(x[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last), weight, padding=padding)
    n, c, height, width = x.shape
    x = F.pad(x, (0, width % 2, 0, height % 2))
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    x = x.permute(0, 2, 3, 1).reshape(n, rows, 2, columns, 2, c)
    x = x.permute(0, 2, 4, 1, 3, 5).reshape(4 * n, rows, columns, c).permute(0, 3, 1, 2)
    x = grouped(x, weight, padding=padding).permute(0, 2, 3, 1).reshape(n, 2, 2, rows, columns, c)
    x = x.permute(0, 3, 1, 4, 2, 5).reshape(n, 2 * rows, 2 * columns, c).permute(0, 3, 1, 2)
    return x[:, :, :height, :width]


def convolved(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    if layer.dilation == (2, 2) and layer.groups > 1:
        return dilated(x, layer.weight, layer.stride[0])
    return grouped(x, layer.weight, layer.stride, layer.padding, layer.dilation)


def halved(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """What FactorizedReduce normalises: its two halves side by side within each task."""
    halves = [
        grouped(pixels.contiguous(memory_format=torch.channels_last), weight).permute(0, 2, 3, 1)
        for pixels, weight in zip(offset_pixels(x), (first, second), strict=True)
    ]
    joined = torch.cat([half.unflatten(-1, (len(first), -1)) for half in halves], dim=-1)
    return joined.flatten(-2).permute(0, 3, 1, 2)


def normalised(x: torch.Tensor) -> torch.Tensor:
    """BN by the batch's statistics, without affine parameters."""
    return F.batch_norm(x, None, None, training=True, eps=EPSILON)


def body(operation: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the last BN of a candidate normalises."""
    if isinstance(operation, FactorizedReduce):
        return halved(x, operation.first.weight, operation.second.weight)
    *layers, _ = operation
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            x = convolved(layer, x)
        else:
            x = normalised(x) if isinstance(layer, BatchNorm) else layer(x)
    return x


def read(reader: nn.Module, activated: list[torch.Tensor]) -> torch.Tensor:
    """A cell's input from the ReLU of the states of the output that ``reader`` reads."""
    is_reduction = isinstance(reader, FactorizedReduce)
    convolve, layers = (halved, (reader.first, reader.second)) if is_reduction else (grouped, (reader[0],))
    columns = zip(*(layer.weight.chunk(len(activated), dim=2) for layer in layers), strict=True)
    total = None
    for state, own in zip(activated, columns, strict=True):
        part = convolve(state, *own)
        total = part if total is None else total.add_(part)
    return normalised(total)


# --- The supernet ---------------------------------------------------------------------------------------------------


class BatchedSupernet:
    """T copies of a supernet side by side: images (T, N, in_channels, H, W) -> logits (T, N, ways).

    BN is by the batch's statistics, and no running ones are kept.

    Args:
        supernet: what is copied.

    Attributes:
        weights: {name of a parameter of the supernet: (T, *shape)}.

    Raises:
        ValueError: the candidates see a part of the channels.
    """

    def __init__(self, supernet: Supernet, tasks: int):
        if supernet.settings.partial_channels > 1:
            raise ValueError("tasks side by side do not know partial channels")
        self.supernet = supernet
        self.tasks = tasks
        # A supernet in form: its layers are run by the functions above.
        self.stacked = deepcopy(supernet)
        for module in self.stacked.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.stack([parameter.detach()] * tasks).contiguous()))
        self.weights = dict(self.stacked.named_parameters())

    @torch.no_grad()
    def copy_to_supernet(self, task: int) -> None:
        """Writes a task's weights into the supernet that this was made of."""
        for name, parameter in self.supernet.named_parameters():
            parameter.copy_(self.weights[name][task])

    def reached_weights(self, mixtures: dict[str, BatchedMixture]) -> list[list[bool]]:
        """For each of ``weights`` T booleans: whether the task's part gets a gradient."""
        reached = [
            {id(parameter) for _, module in self._reached(task, mixtures) for parameter in module.parameters()}
            for task in range(self.tasks)
        ]
        return [[id(weight) in of_task for of_task in reached] for weight in self.weights.values()]

    def reached_types(self, task: int, mixtures: dict[str, BatchedMixture]) -> set[str]:
        """The cell types whose alpha and beta get a gradient of a task."""
        return {cell_type for cell_type, _ in self._reached(task, mixtures) if cell_type is not None}

    def _reached(self, task: int, mixtures: dict[str, BatchedMixture]) -> Iterator[tuple[str | None, nn.Module]]:
        """What a task's gradient gets to: not beyond an input that only pruned candidates read.

        Each with its cell type if it is a candidate, else with None.
        """
        net = self.stacked
        yield None, net.head
        outputs = {len(net.cells) - 1}
        for layer in range(len(net.cells) - 1, STEM, -1):
            if layer not in outputs:
                continue
            cell, cell_type = net.cells[layer], net.settings.cell_type(layer)
            mixture = mixtures[cell_type].of_task(task)
            for state, source in enumerate(cell.sources):
                operations = [run.operation for run in source.runs(mixture)]
                yield from ((cell_type, operation) for operation in operations)
                if operations and state in (OLDER, NEWER):
                    yield None, cell.inputs[state]
                    outputs.add(net.output_read_by(layer, state))
        if STEM in outputs:
            yield None, net.stem

    def __call__(
        self, images: torch.Tensor, mixtures: dict[str, BatchedMixture], keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Args:
        mixtures: one for each cell type.
        keep: (layers, E, k, N, T) drop-path factors, see :meth:`Supernet.draw_drop_path`; None: nothing is dropped.
        """
        net = self.stacked
        inputs = [[None, None] for _ in net.cells]
        side_by_side = images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        states = self._stem_states(unit_range(side_by_side))
        for layer, cell in enumerate(net.cells):
            activated = [F.relu(state) for state in states]
            for reader, side in net.readers(layer - 1):
                inputs[reader][side] = read(net.cells[reader].inputs[side], activated)
            mixture = mixtures[net.settings.cell_type(layer)]
            states = _run_cell(cell, *inputs[layer], mixture, None if keep is None else keep[layer])
            inputs[layer] = None
        features = torch.cat([state.mean((2, 3)).unflatten(1, (self.tasks, -1)) for state in states], dim=2)
        return torch.baddbmm(net.head.bias[:, None], features.transpose(0, 1), net.head.weight.transpose(1, 2))

    def _stem_states(self, images: torch.Tensor) -> list[torch.Tensor]:
        """nodes x (N, T*C, H, W)."""
        convolution, norm = self.stacked.stem
        nodes = self.stacked.settings.nodes
        parts = zip(*(w.chunk(nodes, dim=1) for w in (convolution.weight, norm.weight, norm.bias)), strict=True)
        return [
            torch.addcmul(
                shift.reshape(-1, 1, 1), normalised(grouped(images, weight, padding=1)), scale.reshape(-1, 1, 1)
            )
            for weight, scale, shift in parts
        ]


def _run_cell(
    cell: SearchCell, older: torch.Tensor, newer: torch.Tensor, mixture: BatchedMixture, keep: torch.Tensor | None
) -> list[torch.Tensor]:
    """The states of a cell's nodes; see :meth:`SearchCell.forward`."""
    weights = mixture.weights(keep)
    states = [older, newer]
    terms: list[list[Term]] = [[] for _ in range(cell.nodes)]
    for index, source in enumerate(cell.sources):
        if index >= 2:
            states.append(_node(terms[index - 2], older, cell.stride))
        _push(source, states[index], mixture, weights, terms)
    return [*states[2:], _node(terms[-1], older, cell.stride)]


def _push(source: Source, state: torch.Tensor, mixture: BatchedMixture, weights, terms: list[list[Term]]) -> None:
    """Pushes a state through its candidates; each is a term of the nodes that it feeds."""
    activated = F.relu(state)
    for run in source.runs(mixture):
        if isinstance(run.operation, Skip):
            output = state, None, None
        else:
            output = with_statistics(body(run.operation, activated if run.takes_relu else state))
        for edge, node in run.edges.items():
            terms[node].append(Term(*output, weights[edge][run.candidate]))


def _node(terms: list[Term], older: torch.Tensor, stride: int) -> torch.Tensor:
    if terms:
        return mix(terms)
    n, c, height, width = older.shape  # as in SearchCell: without any candidate it is zero
    zeros = older.new_zeros(n, c, -(-height // stride), -(-width // stride))
    return zeros.contiguous(memory_format=torch.channels_last)
