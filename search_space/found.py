"""The network that a search found: per node its best pair of inputs, per edge its best candidate.

It is run as the supernet with mixtures that hold one candidate on the two edges of each node, each with weight one, and
nothing else. So it has the weights of the adapted supernet, and every way to train and test that there is.
"""

import torch

from models.search_cell import Mixture, edge_list
from models.supernet import NORMAL, REDUCTION, SupernetSettings
from search_space.architecture import Architecture
from search_space.genotype import Entry, Genotype
from search_space.normalizers import AnnealedNormalizer


def genotype_mixtures(genotype: Genotype, network: SupernetSettings, like: torch.Tensor) -> dict[str, Mixture]:
    """The mixtures that leave of a supernet the network of a genotype, one for each cell type.

    Args:
        like: a parameter of the supernet, for device and type of number.
    """
    return {cell_type: _mixture(entries, network.primitives, like) for cell_type, entries in _cells(genotype).items()}


def _mixture(entries: tuple[Entry, ...], primitives: tuple[str, ...], like: torch.Tensor) -> Mixture:
    edges = edge_list(len(entries) // 2)
    run = [[False] * len(primitives) for _ in edges]
    for number, (name, source) in enumerate(entries):
        run[edges.index((source, number // 2))][primitives.index(name)] = True
    return Mixture(torch.tensor(run).to(like), run, run)


@torch.no_grad()
def mean_entropy(architecture: Architecture, network: SupernetSettings, normalizer: AnnealedNormalizer) -> float:
    """How far the search is from a decision: the mean entropy of the candidates' probabilities over edges, in nats.

    From 0, decided, to log(k), uniform. Only the cell types that the network has count.
    """
    probabilities = [architecture.op_probabilities(cell_type, normalizer) for cell_type in _cell_types(network)]
    return torch.special.entr(torch.cat(probabilities)).sum(1).mean().item()


def genotype_overlap(one: Genotype, other: Genotype, network: SupernetSettings) -> float:
    """The share of entries (operation and input of a node) that two genotypes have in common, from 0 to 1.

    Only the cell types that the network has count.
    """
    own, others = (
        {
            (cell_type, number // 2, *entry)
            for cell_type in _cell_types(network)
            for number, entry in enumerate(_cells(genotype)[cell_type])
        }
        for genotype in (one, other)
    )
    return len(own & others) / len(own)


def _cells(genotype: Genotype) -> dict[str, tuple[Entry, ...]]:
    return {NORMAL: genotype.normal, REDUCTION: genotype.reduce}


def _cell_types(network: SupernetSettings) -> list[str]:
    return sorted({network.cell_type(layer) for layer in range(network.layers)})
