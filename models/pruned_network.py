"""What a search leaves: the adapted supernet with its active candidates only, a plain network images -> logits.

The relaxed network holds every candidate that soft pruning left. The found one is what architecture search is for: per
node a pair of inputs, on each of its edges one candidate, with the weight that it has in the adapted supernet.
"""

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from models.search_cell import NEWER, OLDER, Mixture, Source
from models.supernet import STEM, Supernet, pooled
from utils.data.pixels import unit_range


class PrunedSource(nn.Module):
    """What leaves one state of a cell, in the place of its :class:`Source`: a copy of the candidates that are active.

    Nothing is done in place or under a switched gradient mode: to trace what is takes ten times as long.
    """

    def __init__(self, source: Source, mixture: Mixture):
        super().__init__()
        self.stride = source.stride
        self.edges = source.edges
        self.runs = [replace(run, operation=deepcopy(run.operation)) for run in source.runs(mixture)]
        self.operations = nn.ModuleList(run.operation for run in self.runs)

    def forward(self, state: torch.Tensor, mixture: Mixture, weights: list[list[torch.Tensor]], nodes: list) -> None:
        """See :meth:`Source.forward`."""
        activated = F.relu(state)
        for run, operation in zip(self.runs, self.operations, strict=True):
            output = operation(activated if run.takes_relu else state)
            for edge, node in run.edges.items():
                term = output * weights[edge][run.candidate]
                nodes[node] = term if nodes[node] is None else nodes[node] + term


class PrunedNetwork(nn.Module):
    """Images (N, in_channels, H, W) -> logits (N, ways), those of ``supernet(images, mixtures)``.

    It can be trained further: the mixtures' coefficients are constants, its parameters are those of what it runs. Of a
    candidate that is not active it holds nothing.

    Args:
        supernet: copied.
        mixtures: one for each cell type that the supernet has.
    """

    def __init__(self, supernet: Supernet, mixtures: dict[str, Mixture]):
        super().__init__()
        settings = supernet.settings
        self.mixtures = {}
        for cell_type in settings.cell_types:
            mixture = mixtures[cell_type]
            self.register_buffer(f"{cell_type}_coefficients", mixture.coefficients.detach().clone())
            self.mixtures[cell_type] = replace(mixture, coefficients=None)
        pruned = {}  # for deepcopy: what stands in the place of each cell's sources
        for layer, cell in enumerate(supernet.cells):
            mixture = mixtures[settings.cell_type(layer)]
            pruned[id(cell.sources)] = nn.ModuleList(PrunedSource(source, mixture) for source in cell.sources)
        self.supernet = deepcopy(supernet, pruned)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        supernet = self.supernet
        outputs = {STEM: supernet.stem(unit_range(images))}
        for layer, cell in enumerate(supernet.cells):
            older, newer = (
                read(F.relu(outputs[supernet.output_read_by(layer, side)]))
                for side, read in zip((OLDER, NEWER), cell.inputs, strict=True)
            )
            states = cell(older, newer, self._mixture(supernet.settings.cell_type(layer)))
            outputs[layer] = torch.cat(states, dim=1)
        return supernet.head(pooled(states))

    def _mixture(self, cell_type: str) -> Mixture:
        return replace(self.mixtures[cell_type], coefficients=self.get_buffer(f"{cell_type}_coefficients"))

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())
