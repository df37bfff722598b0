"""The search cell with partial channel connections (PC-DARTS, Xu et al., ICLR 2020)."""

import torch
from torch.nn import functional as F

from models.search_cell import Mixture, SearchCell


class PartialCell(SearchCell):
    """A search cell whose candidates see the first 1/K of a state's channels; the others pass by.

    An edge's output is the mixture of its candidates beside the channels that passed by, the latter 2x2 max-pooled
    where the stride is 2; then the channels are shuffled, so that the next candidates see others. Shuffling is linear,
    and done once per node.

    Args:
        share: K, which divides ``channels``. The others: see :class:`SearchCell`.
    """

    def __init__(self, primitives: tuple[str, ...], channels: int, nodes: int, share: int, **places: bool):
        super().__init__(primitives, channels, nodes, candidate_channels=channels // share, **places)
        self.share = share
        self.seen = channels // share  # channels that the candidates see

    def forward(
        self, older: torch.Tensor, newer: torch.Tensor, mixture: Mixture, keep: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """See :meth:`SearchCell.forward`. Channels pass by on every edge: ``trained`` holds for the candidates only."""
        weights = mixture.weights(keep)
        edge_weights = mixture.coefficients.sum(1)  # of an edge's candidates the probabilities add up to one
        states, mixed, passed = [older, newer], [None] * self.nodes, [None] * self.nodes
        for index, source in enumerate(self.sources):
            if index >= 2:
                states.append(self._joined(mixed[index - 2], passed[index - 2], older))
            seen, passing = states[index].split([self.seen, self.channels - self.seen], dim=1)
            source(seen, mixture, weights, mixed)
            if source.stride == 2:
                passing = F.max_pool2d(passing, 2, ceil_mode=True)
            for edge, node in source.edges.items():
                term = passing * edge_weights[edge]
                passed[node] = term if passed[node] is None else passed[node] + term
        return [*states[2:], self._joined(mixed[-1], passed[-1], older)]

    def _joined(self, mixed: torch.Tensor | None, passed: torch.Tensor, cell_input: torch.Tensor) -> torch.Tensor:
        """A node of all channels, shuffled; a mixture of "none" alone is zero."""
        mixed = self._finished(mixed, cell_input[:, : self.seen])
        node = F.channel_shuffle(torch.cat([mixed, passed], dim=1), self.share)
        return node.contiguous(memory_format=torch.channels_last)
