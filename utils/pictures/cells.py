"""The cells of a genotype."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.pictures.style import ACCENT, CARD, GRID, MUTED, PAGE, TEXT, new_figure, save_png

Cell = list[tuple[str, int]]

# Inches.
ROW = 0.44  # from a node down to the next
COLUMN = 1.12  # from a node to the next: an operation's name fits in
NARROW = 0.56  # the same, where no name is in between
RADIUS = 0.16  # of a node


def cells_of(genotype: dict, network: dict | None = None) -> dict[str, Cell]:
    """A genotype's cells by title; given a network's settings, those that it has."""
    cells = {"Normal cell": genotype["normal"], "Reduction cell": genotype["reduce"]}
    if network is None:
        return cells
    reductions = len(network["reduction_layers"])
    counts = {"Normal cell": network["layers"] - reductions, "Reduction cell": reductions}
    return {title: cell for title, cell in cells.items() if counts[title]}


def draw_genotype(cells: dict[str, Cell], path: Path) -> None:
    """Draws cells, by title, into a PNG; see :func:`cell_figure`.

    Raises:
        InputError: the file cannot be written.
    """
    save_png(cell_figure(cells), path)


def cell_figure(cells: dict[str, Cell]) -> Figure:
    """Cells side by side, each under its title.

    Args:
        cells: the (operation, input) pairs of a cell's edges, two a node in node order; input 0 and 1 are the cell's
            inputs, ``i + 2`` is node ``i``. Every node is part of the output.
    """
    nodes = max(len(cell) for cell in cells.values()) // 2
    width, height = NARROW + sum(_steps(nodes)), ROW * (nodes + 3)
    figure = new_figure(width * len(cells), height)
    for axes, (title, cell) in zip(figure.subplots(1, len(cells), squeeze=False)[0], cells.items(), strict=True):
        axes.set(xlim=(-NARROW / 2, width - NARROW / 2), ylim=(ROW / 2 - height, ROW / 2), aspect="equal")
        axes.axis("off")
        axes.set_title(title, loc="left", color=TEXT, fontsize=10, parse_math=False)
        _draw(axes, cell)
    return figure


def _steps(nodes: int) -> list[float]:
    """From each state to the next: a name takes half a column on either side of a node, none is over another state."""
    between = (NARROW + COLUMN) / 2
    return [NARROW, between, *[COLUMN] * (nodes - 1), between]


def _draw(axes: Axes, cell: Cell) -> None:
    """States down a staircase. An edge leaves to the right and comes in from above; its operation is where it turns.

    So no two names can meet: each has the row of its source and the column of its target for itself.
    """
    nodes = len(cell) // 2
    steps = _steps(nodes)
    places = [(sum(steps[:state]), -ROW * state) for state in range(nodes + 3)]
    edges = [(source, number // 2 + 2, name) for number, (name, source) in enumerate(cell)]
    edges = [(node, nodes + 2, None) for node in range(2, nodes + 2)] + edges
    for source, target, _ in edges:
        (x, y), (to_x, to_y) = places[source], places[target]
        colour = MUTED if target < nodes + 2 else GRID
        axes.plot([x, to_x, to_x], [y, y, to_y + RADIUS + 0.03], color=colour, linewidth=1, zorder=1)
        axes.plot(to_x, to_y + RADIUS + 0.04, marker="v", color=MUTED, markersize=4, zorder=2)
    labels = ["$c_{k-2}$", "$c_{k-1}$", *map(str, range(nodes)), "$c_k$"]
    for state, ((x, y), label) in enumerate(zip(places, labels, strict=True)):
        inner = 2 <= state < nodes + 2
        look = {"markerfacecolor": ACCENT if inner else CARD, "markeredgecolor": MUTED, "markeredgewidth": 0.7}
        axes.plot(x, y, marker="o", markersize=2 * 72 * RADIUS, color=MUTED, **look, zorder=3)
        axes.text(x, y, label, color=PAGE if inner else TEXT, fontsize=8, ha="center", va="center", zorder=4)
    box = {"boxstyle": "round,pad=0.25", "facecolor": PAGE, "edgecolor": MUTED, "linewidth": 0.7}
    for source, target, name in edges:
        if name is not None:
            place = (places[target][0], places[source][1])
            axes.text(
                *place, name, color=TEXT, fontsize=8, ha="center", va="center", bbox=box, zorder=5, parse_math=False
            )
