"""Architecture parameters: alpha over the candidates of each edge, beta over the inputs of each node."""

from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import nn

from models.search_cell import Mixture, edge_list
from models.supernet import CELL_TYPES, EDGES, EQUAL, PAIRS
from search_space.normalizers import AnnealedNormalizer

Noise = dict[str, torch.Tensor] | None


def input_pairs(node: int) -> list[tuple[int, int]]:
    """The C(node + 2, 2) unordered pairs of the states that node ``node`` can read, in beta's order."""
    return list(combinations(range(node + 2), 2))


def input_groups(node: int, edge_weights: str) -> list[tuple[int, ...]]:
    """The groups of states that node ``node`` reads together: beta has a parameter for each.

    They are pairs in On-NAS and single states in PC-DARTS (edge normalisation); DARTS has none.
    """
    if edge_weights == PAIRS:
        return input_pairs(node)
    return [(source,) for source in range(node + 2)] if edge_weights == EDGES else []


def gumbel_noise(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Standard Gumbel noise, drawn on the CPU."""
    return -torch.empty(shape).exponential_(generator=generator).log()


@dataclass(frozen=True)
class Choice:
    """What is drawn for one optimisation step: what gets gradient, for each cell type, and the Gumbel noise.

    ops: {type: E sets of candidates}; None: every candidate.
    pairs: {type: one pair (a, b) for each node}; None: every pair.
    noise: {parameter's name: noise of its shape}; None: there is none.
    """

    ops: dict[str, list[set[int]]] | None = None
    pairs: dict[str, list[tuple[int, int]]] | None = None
    noise: Noise = field(default=None, compare=False)


EVERYTHING = Choice()


class Architecture(nn.Module):
    """alpha[type][edge] is (k,); beta[type][node] is (groups,), see :func:`input_groups`. A type's cells share them.

    Each edge and each node has a tensor of its own, so that one that gets no gradient is not stepped: Adam would move a
    row without gradient by weight decay alone, and as far as the others. They start at 1e-3 times a standard normal.

    Args:
        edge_weights: one of models.supernet.EDGE_WEIGHTS.
    """

    def __init__(self, nodes: int, candidates: int, generator: torch.Generator, edge_weights: str = PAIRS):
        super().__init__()
        self.weighting = edge_weights
        groups = [(node, group) for node in range(nodes) for group in input_groups(node, edge_weights)]
        self.edges = edge_list(nodes)
        self.nodes = nodes

        def small(size: int) -> nn.Parameter:
            return nn.Parameter(1e-3 * torch.randn(size, generator=generator))

        self.alpha = nn.ModuleDict({t: nn.ParameterList(small(candidates) for _ in self.edges) for t in CELL_TYPES})
        sizes = [] if edge_weights == EQUAL else [len(input_groups(node, edge_weights)) for node in range(nodes)]
        self.beta = nn.ModuleDict({t: nn.ParameterList(small(size) for size in sizes) for t in CELL_TYPES})
        # Row g, column e: whether group g holds edge e. By linearity an edge's weight is the sum of its groups'.
        holds = torch.zeros(len(groups), len(self.edges))
        for row, (node, group) in enumerate(groups):
            for source in group:
                holds[row, self.edges.index((source, node))] = 1.0
        self.register_buffer("holds", holds, persistent=False)

    def draw_noise(self, generator: torch.Generator) -> Noise:
        """Gumbel noise for every parameter by name."""
        return {
            name: gumbel_noise(parameter.shape, generator).to(parameter.device)
            for name, parameter in self.named_parameters()
        }

    def op_probabilities(
        self, cell_type: str, normalizer: AnnealedNormalizer, choice: Choice = EVERYTHING
    ) -> torch.Tensor:
        """(E, k) probabilities of the candidates; constants on the edges that are not chosen."""
        chosen = self._chosen_edges(cell_type, choice)
        alpha = torch.stack([row if edge in chosen else row.detach() for edge, row in enumerate(self.alpha[cell_type])])
        if choice.noise is None:
            return normalizer(alpha)
        return normalizer(alpha, torch.stack([choice.noise[f"alpha.{cell_type}.{edge}"] for edge in range(len(alpha))]))

    def edge_weights(self, cell_type: str, normalizer: AnnealedNormalizer, choice: Choice = EVERYTHING) -> torch.Tensor:
        """(E,) weights of the edges: for each the sum of the probabilities of the groups that hold it, or one."""
        if not len(self.holds):
            return self.holds.new_ones(len(self.edges))
        noise = choice.noise or {}
        groups = [
            normalizer(beta, noise.get(f"beta.{cell_type}.{node}")) for node, beta in enumerate(self.beta[cell_type])
        ]
        return torch.cat(groups) @ self.holds

    def mixtures(
        self, normalizer: AnnealedNormalizer, prune_threshold: float, choice: Choice = EVERYTHING
    ) -> dict[str, Mixture]:
        """One :class:`Mixture` for each cell type; differentiable in alpha and beta."""
        mixtures = {}
        for cell_type in CELL_TYPES:
            ops = self.op_probabilities(cell_type, normalizer, choice)
            coefficients = self.edge_weights(cell_type, normalizer, choice)[:, None] * ops
            active = (ops >= prune_threshold).tolist()
            mixtures[cell_type] = Mixture(coefficients, active, self._trained(cell_type, ops.shape[1], choice))
        return mixtures

    def _chosen_edges(self, cell_type: str, choice: Choice) -> set[int]:
        return {
            edge
            for edge, (source, node) in enumerate(self.edges)
            if choice.pairs is None or source in choice.pairs[cell_type][node]
        }

    def _trained(self, cell_type: str, k: int, choice: Choice) -> list[list[bool]]:
        chosen = self._chosen_edges(cell_type, choice)
        return [
            [edge in chosen and (choice.ops is None or op in choice.ops[cell_type][edge]) for op in range(k)]
            for edge in range(len(self.edges))
        ]
