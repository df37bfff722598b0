"""The search cell: a mixture of every candidate on every edge, organised by source state.

An edge (i, j) mixes its candidates by softmax(alpha_ij / T), and node j the pairs (a, b) of its inputs by
softmax(beta_j / T). Both are linear, so a node is one weighted sum over edges and candidates: no pair sum is built,
and what has no parameters is run once per state, whatever number of edges leave it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import torch
from torch import nn
from torch.nn import functional as F

from models.merged_candidates import can_merge, merged
from models.operations import CANDIDATES, FactorizedReduce, Projection, has_parameters

OLDER, NEWER = 0, 1  # a cell's two inputs, from the outputs of cells c-2 and c-1


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

    def weights(self, keep: torch.Tensor | None) -> list[list[torch.Tensor]]:
        """E lists of k scalars; with drop-path factors ``keep`` (E, k, N), of k tensors (N, 1, 1, 1)."""
        if keep is None:
            return [row.unbind() for row in self.coefficients.unbind()]
        return [row.unbind() for row in (self.coefficients[:, :, None] * keep)[..., None, None, None].unbind()]


@dataclass(frozen=True)
class Run:
    """One run of a candidate: on one edge, or on all that leave a state where each would do the same.

    candidate: its number. edges: {edge number: node that it feeds}.
    takes_relu: it takes ReLU of the state, and not the state itself.
    """

    candidate: int
    edges: dict[int, int]
    operation: nn.Module
    takes_relu: bool

    def trained_edges(self, mixture: Mixture) -> dict[int, int]:
        return {edge: node for edge, node in self.edges.items() if mixture.trained[edge][self.candidate]}


class Source(nn.Module):
    """Everything that leaves one state of a cell: each candidate without parameters once, the others once per edge.

    Without a gradient the latter are run as one where models/merged_candidates.py can.

    Args:
        edges: {edge number: node} of the edges that leave this state.
        stride: 2 on the inputs of a reduction cell, else 1.
    """

    def __init__(self, edges: dict[int, int], primitives: tuple[str, ...], channels: int, stride: int):
        super().__init__()
        self.edges = edges
        self.primitives = primitives
        self.stride = stride
        self.shared = nn.ModuleDict()
        self.to_node = nn.ModuleDict()  # keyed by node, so that a tensor has the same name in every cell
        for node in map(str, edges.values()):
            self.to_node[node] = nn.ModuleDict()
            for name in primitives:
                if name == "none" or name in self.shared:
                    continue
                candidate = CANDIDATES[name](channels, stride)
                place = self.to_node[node] if has_parameters(candidate) else self.shared
                place[name] = candidate

    def runs(self, mixture: Mixture) -> Iterator[Run]:
        """What is to be run, candidate by candidate; "none" and what is pruned are not."""
        for candidate, name in enumerate(self.primitives):
            edges = {edge: node for edge, node in self.edges.items() if mixture.active[edge][candidate]}
            if name in self.shared and edges:
                yield Run(candidate, edges, self.shared[name], takes_relu=False)
            elif name != "none":
                for edge, node in edges.items():
                    yield Run(candidate, {edge: node}, self.to_node[str(node)][name], takes_relu=True)

    def forward(self, state: torch.Tensor, mixture: Mixture, weights: list[list[torch.Tensor]], nodes: list) -> None:
        """Pushes ``state`` (N, C, H, W) through its candidates and adds each, times its weight, to the node it feeds.

        Args:
            weights: :meth:`Mixture.weights`.
            nodes: the sums so far, None for a node that has none; changed in place.
        """
        activated = F.relu(state)
        for _, kind in groupby(self.runs(mixture), attrgetter("candidate")):
            runs = list(kind)
            x = activated if runs[0].takes_relu else state
            operations = [run.operation for run in runs]
            if can_merge(operations, x):
                for run, output in zip(runs, merged(operations, x), strict=True):
                    _add(run, output, mixture, weights, nodes)
                continue
            for run in runs:
                # What is not trained keeps nothing for a gradient.
                with torch.set_grad_enabled(torch.is_grad_enabled() and bool(run.trained_edges(mixture))):
                    output = run.operation(x)
                _add(run, output, mixture, weights, nodes)


def _add(run: Run, output: torch.Tensor, mixture: Mixture, weights: list[list[torch.Tensor]], nodes: list) -> None:
    """Adds what a run gave, times its weight, to the nodes that it feeds; where it is not trained as a constant."""
    for edge, node in run.edges.items():
        term, weight = output, weights[edge][run.candidate]
        if torch.is_grad_enabled() and not mixture.trained[edge][run.candidate]:
            term, weight = term.detach(), weight.detach()
        # One sum in one order whatever is trained: the choice never changes the output, not even its last bit.
        nodes[node] = term * weight if nodes[node] is None else nodes[node].addcmul_(term, weight)


def convolve_states(readers: list[nn.Module], states: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """What each reader of an output makes of its states, before BN: ReLU and 1x1 convolution, (N, C, H', W').

    Args:
        readers: Projection or FactorizedReduce modules.
        states: the output's (N, C, H, W) each; one at a time, so that an iterator need not hold them all.
    """
    sums = [None] * len(readers)
    for index, state in enumerate(states):
        activated = F.relu(state)
        for number, reader in enumerate(readers):
            part = reader.convolve(activated, index)
            sums[number] = part if sums[number] is None else sums[number].add_(part)
    return sums


class SearchCell(nn.Module):
    """One cell of the supernet: its two inputs (N, C, H, W) -> the states of its nodes, (N, C, H', W') each.

    The nodes side by side are its output, of S = nodes * C channels; they are never concatenated. ``inputs`` read the
    outputs of the two cells before.

    Args:
        channels: C, of each node.
        reduction: stride 2 on the edges from the two inputs.
        after_reduction: the cell before this one is a reduction, so the older input is twice as large.
        candidate_channels: how many of C the candidates see; None: all.
    """

    def __init__(
        self,
        primitives: tuple[str, ...],
        channels: int,
        nodes: int,
        reduction: bool = False,
        after_reduction: bool = False,
        candidate_channels: int | None = None,
    ):
        super().__init__()
        self.channels = channels
        self.nodes = nodes
        self.stride = 2 if reduction else 1
        # Two names for the two forms: the meta-cell, one for all places, owns both.
        if after_reduction:
            self.older_reduction = FactorizedReduce(nodes * channels, channels)
        else:
            self.older_projection = Projection(nodes * channels, channels)
        self.newer_projection = Projection(nodes * channels, channels)
        self.after_reduction = after_reduction
        edges = edge_list(nodes)
        self.sources = nn.ModuleList(
            Source(
                {edge: node for edge, (source, node) in enumerate(edges) if source == state},
                primitives,
                candidate_channels or channels,
                self.stride if state < 2 else 1,
            )
            for state in range(nodes + 1)
        )

    @property
    def inputs(self) -> tuple[nn.Module, nn.Module]:
        """The readers of the older and of the newer output."""
        return self.older_reduction if self.after_reduction else self.older_projection, self.newer_projection

    def forward(
        self, older: torch.Tensor, newer: torch.Tensor, mixture: Mixture, keep: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Args:
        older, newer: states 0 and 1, what ``inputs`` made of the outputs of cells c-2 and c-1.
        keep: (E, k, N) drop-path factors, 0 or 1 / (1 - p); None: nothing is dropped.
        """
        weights = mixture.weights(keep)
        states = [older, newer]
        nodes = [None] * self.nodes
        for index, source in enumerate(self.sources):
            if index >= 2:
                states.append(self._finished(nodes[index - 2], older))
            source(states[index], mixture, weights, nodes)
        return [*states[2:], self._finished(nodes[-1], older)]

    def _finished(self, node: torch.Tensor | None, cell_input: torch.Tensor) -> torch.Tensor:
        """A node to which every candidate was pruned or "none" is zero."""
        if node is not None:
            return node
        n, c, height, width = cell_input.shape
        return cell_input.new_zeros(n, c, -(-height // self.stride), -(-width // self.stride))
