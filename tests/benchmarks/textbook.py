"""A textbook supernet for the benchmarks: edge by edge, candidate by candidate, ReLU and BN in each, pairs summed."""

from itertools import combinations

import torch
from torch import nn

from models.search_cell import edge_list
from models.supernet import CELL_TYPES, Supernet, SupernetSettings
from tests.textbook_operations import Reduce, operation, projection


class Cell(nn.Module):
    def __init__(self, settings: SupernetSettings, layer: int):
        super().__init__()
        channels, width = settings.init_channels, settings.nodes * settings.init_channels
        self.nodes = settings.nodes
        self.strides = [
            2 if settings.cell_type(layer) == "reduction" and source < 2 else 1
            for source, _ in edge_list(settings.nodes)
        ]

        is_halved = layer - 1 in settings.reduction_layers
        self.older = Reduce(width, channels) if is_halved else projection(width, channels)
        self.newer = projection(width, channels)
        self.edges = nn.ModuleList(
            nn.ModuleList(operation(name, channels, stride) for name in settings.primitives) for stride in self.strides
        )

    def forward(self, older, newer, alpha, beta, threshold: float, keep) -> torch.Tensor:
        states, edge = [self.older(older), self.newer(newer)], 0
        for node in range(self.nodes):
            mixed = []
            for state in states:
                probabilities = torch.softmax(alpha[edge], -1)
                mixed.append(
                    sum(
                        probability * op(state) * (1.0 if keep is None else keep[edge, number].view(-1, 1, 1, 1))
                        for number, (probability, op) in enumerate(zip(probabilities, self.edges[edge], strict=True))
                        if probability >= threshold
                    )
                )
                edge += 1
            pairs = combinations(mixed, 2)
            states.append(sum(w * (a + b) for w, (a, b) in zip(torch.softmax(beta[node], -1), pairs, strict=True)))
        return torch.cat(states[2:], dim=1)


class Textbook(nn.Module):
    """Images -> logits, those of a supernet whose weights, alpha and beta it starts with (few-shot candidates)."""

    def __init__(self, supernet: Supernet, architecture: nn.Module):
        super().__init__()
        settings = self.settings = supernet.settings
        width = settings.nodes * settings.init_channels
        self.stem = nn.Sequential(
            nn.Conv2d(settings.in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.cells = nn.ModuleList(Cell(settings, layer) for layer in range(settings.layers))
        self.head = nn.Linear(width, supernet.head.out_features)
        self.alpha, self.beta = (
            nn.ModuleDict(
                {t: nn.ParameterList(nn.Parameter(row.detach().clone()) for row in rows[t]) for t in CELL_TYPES}
            )
            for rows in (architecture.alpha, architecture.beta)
        )
        _copy(supernet.stem, self.stem)
        _copy(supernet.head, self.head)
        for source, cell in zip(supernet.cells, self.cells, strict=True):
            for module, own in zip(source.inputs, (cell.older, cell.newer), strict=True):
                _copy(module, own)
            for (state, node), edge in zip(edge_list(settings.nodes), cell.edges, strict=True):
                for name, module in source.sources[state].to_node[str(node)].items():
                    _copy(module, edge[settings.primitives.index(name)])

    def architecture(self) -> list[nn.Parameter]:
        return [*self.alpha.parameters(), *self.beta.parameters()]

    def weights(self) -> list[nn.Parameter]:
        return [p for part in (self.stem, self.cells, self.head) for p in part.parameters()]

    def forward(self, images, temperature: float = 1.0, threshold: float = 0.0, keep=None) -> torch.Tensor:
        older = newer = self.stem(images)
        for layer, cell in enumerate(self.cells):
            cell_type = self.settings.cell_type(layer)
            alpha, beta = ([row / temperature for row in rows[cell_type]] for rows in (self.alpha, self.beta))
            output = cell(older, newer, alpha, beta, threshold, None if keep is None else keep[layer])
            older, newer = newer, output
        return self.head(newer.mean((2, 3)))


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    for parameter, own in zip(source.parameters(), target.parameters(), strict=True):
        own.copy_(parameter)
