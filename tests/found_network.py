"""A network of chosen candidates, each with its weight in the mixtures it comes from."""

from collections.abc import Sequence
from dataclasses import replace

from models.pruned_network import PrunedNetwork
from models.search_cell import Mixture, edge_list
from models.supernet import Supernet


def found_network(
    supernet: Supernet, mixtures: dict[str, Mixture], cells: dict[str, Sequence[tuple[str, int]]]
) -> PrunedNetwork:
    """The network of the chosen edges and candidates of an adapted supernet; each keeps its weight in ``mixtures``.

    Args:
        mixtures: those of the adapted supernet, soft-pruned or not.
        cells: for each cell type that the supernet has the chosen (candidate, input), two a node in node order; input 0
            and 1 are the cell's inputs, ``i + 2`` is node ``i``.
    """
    settings = supernet.settings
    numbers = {edge: number for number, edge in enumerate(edge_list(settings.nodes))}
    found = {}
    for cell_type, entries in cells.items():
        active = [[False] * len(settings.primitives) for _ in numbers]
        for entry, (name, source) in enumerate(entries):
            active[numbers[source, entry // 2]][settings.primitives.index(name)] = True
        found[cell_type] = replace(mixtures[cell_type], active=active, trained=active)
    return PrunedNetwork(supernet, found)
