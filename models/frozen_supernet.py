"""The adapted supernet as a plain network, images -> logits: what a device runs once its search is over."""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from models.search_cell import NEWER, OLDER, Mixture, Source
from models.supernet import STEM, Supernet, pooled
from models.textbook_norm import with_textbook_norm


class FrozenSource(nn.Module):
    """What leaves one state of a cell, in the place of its :class:`Source`: the candidates that are active.

    Nothing is done in place or under a switched gradient mode: to trace what is takes ten times as long.
    """

    def __init__(self, source: Source, mixture: Mixture):
        super().__init__()
        self.edges = source.edges
        self.stride = source.stride
        self.runs = list(source.runs(mixture))
        self.operations = nn.ModuleList(run.operation for run in self.runs)

    def forward(self, state: torch.Tensor, mixture: Mixture, weights: list[list[torch.Tensor]], nodes: list) -> None:
        """See :meth:`Source.forward`."""
        activated = F.relu(state)
        for run in self.runs:
            output = run.operation(activated if run.takes_relu else state)
            for edge, node in run.edges.items():
                term = output * weights[edge][run.candidate]
                nodes[node] = term if nodes[node] is None else nodes[node] + term


class FrozenSupernet(nn.Module):
    """Images (N, in_channels, H, W) -> logits (N, ways), those of ``supernet.eval()(images, mixtures)``.

    The mixtures' coefficients are constants, and BN normalises by the statistics that it holds.

    Args:
        supernet: copied.
        mixtures: one for each cell type.
    """

    def __init__(self, supernet: Supernet, mixtures: dict[str, Mixture]):
        super().__init__()
        self.supernet = with_textbook_norm(supernet)
        self.mixtures = {}
        for cell_type, mixture in mixtures.items():
            self.register_buffer(f"{cell_type}_coefficients", mixture.coefficients.detach().clone())
            self.mixtures[cell_type] = replace(mixture, coefficients=None)
        for layer, cell in enumerate(self.supernet.cells):
            mixture = mixtures[supernet.settings.cell_type(layer)]
            cell.sources = nn.ModuleList(FrozenSource(source, mixture) for source in cell.sources)
        self.requires_grad_(False).eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        supernet = self.supernet
        outputs = {STEM: supernet.stem(images)}
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
