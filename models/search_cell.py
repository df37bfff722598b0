"""The search cell: a mixture of every candidate on every edge, organised by source state.

An edge (i, j) mixes its candidates by softmax(alpha_ij / T), and node j the pairs (a, b) of its inputs by
softmax(beta_j / T). Both are linear, so a node is one weighted sum over edges and candidates: no pair sum is built,
and what has no parameters is run once per state, whatever number of edges leave it.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from models.operations import POOLS, FactorizedReduce, has_parameters, pool, projection, weighted_operation


def edge_list(nodes: int) -> list[tuple[int, int]]:
    """The edges of a cell as (source state, node), node by node: (0,0) (1,0) (0,1) (1,1) (2,1) ...

    States 0 and 1 are the cell's inputs, state ``i + 2`` is node ``i``. Alpha's rows follow this order.
    """
    return [(source, node) for node in range(nodes) for source in range(node + 2)]


@dataclass(frozen=True)
class Mixture:
    """How the cells of one type mix their candidates, E edges of k candidates each.

    coefficients: (E, k), the weight of each candidate's output in the node it feeds: the edge's weight (the sum of
        its pairs' weights) times the candidate's probability.
    active: E lists of k booleans; a candidate that is not active is not run (soft pruning).
    trained: E lists of k booleans; a candidate that is active and not trained is a constant to the gradient.
    """

    coefficients: torch.Tensor
    active: list[list[bool]]
    trained: list[list[bool]]


class Source(nn.Module):
    """Everything that leaves one state of a cell: each candidate without parameters once, the others once per edge.

    Args:
        edges: {edge number: node} of the edges that leave this state.
        stride: 2 on the inputs of a reduction cell, else 1.
    """

    def __init__(self, edges: dict[int, int], primitives: tuple[str, ...], channels: int, stride: int):
        super().__init__()
        self.edges = edges
        self.primitives = primitives
        self.stride = stride
        self.pools = nn.ModuleDict({name: pool(name, channels, stride) for name in primitives if name in POOLS})
        # Keyed by node, so that a tensor has the same name in every cell.
        self.to_node = nn.ModuleDict(
            {
                str(node): nn.ModuleDict(
                    {
                        name: weighted_operation(name, channels, stride)
                        for name in primitives
                        if has_parameters(name, stride)
                    }
                )
                for node in edges.values()
            }
        )

    def forward(self, state: torch.Tensor, mixture: Mixture, weights: list[list[torch.Tensor]], nodes: list) -> None:
        """Pushes ``state`` (N, C, H, W) through its candidates and adds each, times its weight, to the node it feeds.

        Args:
            weights: E lists of k tensors, each a scalar or (N, 1, 1, 1): the mixture's coefficients, with drop-path.
            nodes: the sums so far, None for a node that has none; changed in place.
        """
        activated = F.relu(state)
        for k, name in enumerate(self.primitives):
            if name == "none":
                continue
            edges = [edge for edge in self.edges if mixture.active[edge][k]]
            trained = [edge for edge in edges if mixture.trained[edge][k]]
            own = {edge: operations[name] for edge in edges if name in (operations := self._operations(edge))}
            shared = None
            if edges and not own:
                shared = _run(self.pools[name], state, bool(trained)) if name in self.pools else state
            for edge in edges:
                output, weight = shared, weights[edge][k]
                if own:
                    output = _run(own[edge], activated, edge in trained)
                if edge not in trained:
                    output, weight = output.detach(), weight.detach()
                # One sum in one order whatever is trained: the choice never changes the output, not even its last bit.
                node = self.edges[edge]
                nodes[node] = output * weight if nodes[node] is None else nodes[node].addcmul_(output, weight)

    def _operations(self, edge: int) -> nn.ModuleDict:
        return self.to_node[str(self.edges[edge])]


def _run(operation: nn.Module, x: torch.Tensor, trained: bool) -> torch.Tensor:
    """``operation(x)``, which keeps nothing for a gradient unless it is trained."""
    with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
        return operation(x)


class SearchCell(nn.Module):
    """One cell of the supernet: (N, S, H, W) twice -> (N, S, H', W') with S = nodes * C.

    Args:
        channels: C, of each node.
        reduction: stride 2 on the edges from the two inputs.
        after_reduction: the cell before this one is a reduction, so the older input is twice as large.
    """

    def __init__(
        self,
        primitives: tuple[str, ...],
        channels: int,
        nodes: int,
        reduction: bool = False,
        after_reduction: bool = False,
    ):
        super().__init__()
        self.channels = channels
        self.nodes = nodes
        self.stride = 2 if reduction else 1
        # Two names for the two forms: the meta-cell, one for all places, owns both.
        if after_reduction:
            self.older_reduction = FactorizedReduce(nodes * channels, channels)
        else:
            self.older_projection = projection(nodes * channels, channels)
        self.newer_projection = projection(nodes * channels, channels)
        self.after_reduction = after_reduction
        edges = edge_list(nodes)
        self.sources = nn.ModuleList(
            Source(
                {edge: node for edge, (source, node) in enumerate(edges) if source == state},
                primitives,
                channels,
                self.stride if state < 2 else 1,
            )
            for state in range(nodes + 1)
        )

    def forward(
        self, older: torch.Tensor, newer: torch.Tensor, mixture: Mixture, keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Args:
        older, newer: ReLU of the outputs of cells c-2 and c-1; each is the input of two cells.
        keep: (E, k, N) drop-path factors, 0 or 1 / (1 - p); None: nothing is dropped.
        """
        weights = mixture.coefficients
        if keep is None:
            weights = [row.unbind() for row in weights.unbind()]
        else:
            weights = [row.unbind() for row in (weights[:, :, None] * keep)[..., None, None, None].unbind()]
        older_input = self.older_reduction if self.after_reduction else self.older_projection
        states = [older_input(older), self.newer_projection(newer)]
        nodes = [None] * self.nodes
        for index, source in enumerate(self.sources):
            if index >= 2:
                states.append(self._finished(nodes[index - 2], states[0]))
            source(states[index], mixture, weights, nodes)
        return torch.cat([*states[2:], self._finished(nodes[-1], states[0])], dim=1)

    def _finished(self, node: torch.Tensor | None, cell_input: torch.Tensor) -> torch.Tensor:
        """A node to which every candidate was pruned or "none" is zero."""
        if node is not None:
            return node
        n, c, height, width = cell_input.shape
        return cell_input.new_zeros(n, c, -(-height // self.stride), -(-width // self.stride))
