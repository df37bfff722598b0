"""Pictures of a search: alpha and beta, what was chosen, what was expected, and the cells that were found."""

import numpy as np
from PIL import Image

from models.search_cell import edge_list
from models.supernet import CELL_TYPES, SupernetSettings
from search_space.architecture import input_groups, input_pairs
from search_space.board.search_record import ALPHA, BETA, Choices, State
from utils.pictures.cell_picture import as_figure, cell_graph
from utils.pictures.small_plots import heat_map, scatter

PERCENT = 100

Pictures = dict[str, Image.Image]


class SearchPictures:
    """Those of the searches on one kind of supernet, by their tags."""

    def __init__(self, network: SupernetSettings):
        self.network = network
        self._states = ["c-2", "c-1", *map(str, range(network.nodes))]
        self._edges = [f"{self._states[source]} to {node}" for source, node in edge_list(network.nodes)]
        self._nodes = [f"node {node}" for node in range(network.nodes)]

    def architecture(self, state: State) -> Pictures:
        """The probabilities of candidates and groups of inputs, in percent."""
        pictures = {}
        for cell_type in CELL_TYPES:
            rows = _in_percent(state.probabilities(ALPHA, cell_type))
            pictures[f"alpha/{cell_type}"] = heat_map(rows, self._edges, list(self.network.primitives), PERCENT)
            rows = _in_percent(state.probabilities(BETA, cell_type))
            if rows:
                groups = [input_groups(node, self.network.edge_weights) for node in range(self.network.nodes)]
                values = [dict(zip(*node, strict=True)) for node in zip(groups, rows, strict=True)]
                pictures[f"beta/{cell_type}"] = self._of_groups(values, groups[-1], PERCENT)
        return pictures

    def choices(self, choices: Choices) -> Pictures:
        """In how many of the steps each candidate and each pair got gradient."""
        pictures, nodes = {}, range(self.network.nodes)
        for cell_type in CELL_TYPES:
            ops, pairs = choices.ops[cell_type], choices.pairs[cell_type]
            if ops:
                candidates = range(len(self.network.primitives))
                rows = [[ops[edge, op] for op in candidates] for edge in range(len(self._edges))]
                names = list(self.network.primitives)
                pictures[f"chosen_candidates/{cell_type}"] = heat_map(rows, self._edges, names, choices.steps)
            if pairs:
                values = [{pair: pairs[node, pair] for pair in input_pairs(node)} for node in nodes]
                columns = input_pairs(self.network.nodes - 1)
                pictures[f"chosen_pairs/{cell_type}"] = self._of_groups(values, columns, choices.steps)
        return pictures

    def _of_groups(self, values: list[dict[tuple, float]], groups: list[tuple], highest: float) -> Image.Image:
        """A row for each node, a column for each of the last node's groups of inputs: the others' are among them."""
        names = [", ".join(self._states[source] for source in group) for group in groups]
        return heat_map([[of.get(group) for group in groups] for of in values], self._nodes, names, highest)


def _in_percent(rows: list[list[float]]) -> list[list[float]]:
    return [[PERCENT * value for value in row] for row in rows]


def picture_of_expectation(points: list[tuple[float, float]]) -> Image.Image:
    """Args:
    points: (expected, final) values.
    """
    return scatter(points, "expected final value", "final value")


def picture_of_cells(genotype: dict) -> Image.Image:
    """Args:
    genotype: as plain values, see search_space.genotype.
    """
    cells = {"normal": genotype["normal"], "reduction": genotype["reduce"]}
    canvas = as_figure({title: cell_graph(cell) for title, cell in cells.items()}).canvas
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()))
