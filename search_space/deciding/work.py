"""What a network takes to run, as a function of alpha and beta: its expected multiply-accumulates."""

import torch

from models.macs import MacCounter
from models.search_cell import Mixture, edge_list
from models.supernet import Supernet
from search_space.architecture import Architecture


class Work:
    """The multiply-accumulates of each candidate on each edge, for one image.

    Args:
        supernet: its cells may share parameters.
        shape: of an image, (C, H, W).

    Attributes:
        fixed: those of stem, cell inputs and head.
        candidates: {cell type: (E, k)}, summed over the cells of the type.
        whole: those of the supernet with every candidate.
    """

    def __init__(self, supernet: Supernet, shape: tuple[int, int, int]):
        settings = supernet.settings
        self._image = torch.zeros(1, *shape)
        self._network = Supernet(settings, supernet.head.out_features).eval()
        self.cell_types = settings.cell_types
        self._size = len(edge_list(settings.nodes)), len(settings.primitives)
        self.fixed = self._count({})
        self.candidates = {cell_type: self._table(cell_type) for cell_type in self.cell_types}
        self.whole = self.fixed + sum(table.sum().item() for table in self.candidates.values())

    def share(self, architecture: Architecture) -> torch.Tensor:
        """What a path drawn from alpha and beta takes on average, as a share of the whole; differentiable."""
        total = self.fixed
        for cell_type, table in self.candidates.items():
            pairs = torch.cat([beta.softmax(0) for beta in architecture.beta[cell_type]]) @ architecture.holds
            candidates = torch.stack([alpha.softmax(0) for alpha in architecture.alpha[cell_type]])
            total = total + (pairs[:, None] * candidates * table.to(pairs)).sum()
        return total / self.whole

    def _table(self, cell_type: str) -> torch.Tensor:
        edges, candidates = self._size
        return torch.tensor(
            [[self._count({cell_type: (e, k)}) - self.fixed for k in range(candidates)] for e in range(edges)]
        )

    @torch.no_grad()
    def _count(self, only: dict[str, tuple[int, int]]) -> int:
        """Those of the network that runs, of each cell type, one candidate of one edge, or nothing."""
        mixtures = {}
        for cell_type in self.cell_types:
            run = [[(e, k) == only.get(cell_type) for k in range(self._size[1])] for e in range(self._size[0])]
            mixtures[cell_type] = Mixture(torch.tensor(run).float(), run, run)
        with MacCounter() as counter:
            self._network(self._image, mixtures)
        return counter.macs
