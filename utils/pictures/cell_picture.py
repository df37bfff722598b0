"""A picture of the cells of a genotype, drawn by Graphviz where it is installed and by Matplotlib otherwise."""

import json
import shutil
import subprocess
from itertools import groupby
from pathlib import Path

import networkx
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.run.files import replacing

INPUTS = ("c_{k-2}", "c_{k-1}")
OUTPUT = "c_{k}"
GREEN, BLUE, YELLOW, DARK, LIGHT = "#cfe8cf", "#cfe0f5", "#f7e3b5", "#555555", "#b0b0b0"
DPI = 110
GRAPHVIZ_SECONDS = 30  # it takes a fraction of one

# Matplotlib's picture, in inches.
ROW = 0.46  # from a node down to the next
COLUMN = 1.12  # from a node to the next: an operation's name fits in
NARROW = 0.56  # the same, where no name is in between
NODE = 0.34  # diameter


def draw_genotype(cells: dict[str, list[tuple[str, int]]], path: Path) -> None:
    """Draws cells side by side into a PNG.

    Args:
        cells: by title, the (operation, input) pairs of a cell's edges, two a node in node order; input 0 and 1 are
            the cell's inputs, ``i + 2`` is node ``i``. Every node is part of the output.

    Raises:
        InputError: the file cannot be written.
    """
    graphs = {title: cell_graph(cell) for title, cell in cells.items()}
    with replacing(path) as temporary:
        if not _draw_with_graphviz(graphs, temporary):
            as_figure(graphs).savefig(temporary, format="png")


def cell_graph(cell: list[tuple[str, int]]) -> networkx.MultiDiGraph:
    """The graph of one cell, its nodes in order from the inputs to the output.

    An edge's ``label`` is its operation; it is empty where a node becomes part of the output.
    """
    nodes = [str(node) for node in range(len(cell) // 2)]
    states = [*INPUTS, *nodes]
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from([*states, OUTPUT])
    for number, (operation, state) in enumerate(cell):
        graph.add_edge(states[state], nodes[number // 2], label=operation)
    for node in nodes:
        graph.add_edge(node, OUTPUT, label="")
    return graph


def _colour(node: str) -> str:
    if node in INPUTS:
        return GREEN
    return YELLOW if node == OUTPUT else BLUE


# --- Graphviz -------------------------------------------------------------------------------------------------------


def as_dot(graphs: dict[str, networkx.MultiDiGraph]) -> str:
    """The graphs in Graphviz's language, a cluster each."""
    lines = [
        "digraph {",
        f"dpi={DPI}; nodesep=0.2; ranksep=0.35; fontname=Helvetica; fontsize=16;",
        "node [shape=box, style=filled, height=0.35, penwidth=0.8, fontname=Helvetica, fontsize=13];",
        "edge [arrowsize=0.7, fontname=Helvetica, fontsize=11];",
    ]
    for number, (title, graph) in enumerate(graphs.items()):
        names = {node: f"cell{number}_{place}" for place, node in enumerate(graph)}
        older, newer = (names[node] for node in INPUTS)
        lines += [
            f"subgraph cluster_{number} {{ color=white; label={json.dumps(title)};",
            *(f'{name} [label=<{_as_html(node)}>, fillcolor="{_colour(node)}"];' for node, name in names.items()),
            f"{{ rank=same; {older}; {newer}; }}",
        ]
        for edge, (source, target, operation) in enumerate(graph.edges(data="label")):
            ends = [names[source], names[target]]
            if not operation:
                lines.append(f'{" -> ".join(ends)} [color="{LIGHT}"];')
                continue
            # Its name is a node on the edge: beside it, which edge it belongs to is often hard to tell.
            name = f"cell{number}_edge{edge}"
            look = 'shape=box, style="rounded,filled", fillcolor=white, fontsize=11, height=0.2, margin="0.05,0.02"'
            lines.append(f"{name} [label={json.dumps(operation)}, {look}];")
            lines.append(f"{ends[0]} -> {name} [arrowhead=none]; {name} -> {ends[1]};")
        lines.append("}")
    return "\n".join([*lines, "}"])


def _as_html(node: str) -> str:
    """``c_{k-1}`` as Graphviz writes a subscript."""
    letter, _, index = node.partition("_")
    return f"{letter}<sub>{index.strip('{}')}</sub>" if index else letter


def _draw_with_graphviz(graphs: dict[str, networkx.MultiDiGraph], path: Path) -> bool:
    """Whether Graphviz is there and has drawn the picture."""
    dot = shutil.which("dot")
    if dot is None:
        return False
    command = [dot, "-Tpng", "-o", str(path)]
    try:
        subprocess.run(
            command, input=as_dot(graphs), text=True, capture_output=True, check=True, timeout=GRAPHVIZ_SECONDS
        )
    except (subprocess.SubprocessError, OSError):  # installed, but without its fonts or its PNG writer, say
        return False
    return path.is_file()


# --- Matplotlib -----------------------------------------------------------------------------------------------------


def as_figure(graphs: dict[str, networkx.MultiDiGraph]) -> Figure:
    """Nodes down a diagonal. An edge leaves to the right and comes in from above; its operation is where it turns.

    So no two names can meet: each has the row of its source and the column of its target for itself.
    """
    places = {title: _staircase(graph) for title, graph in graphs.items()}
    right, bottom = (max(abs(place[OUTPUT][axis]) for place in places.values()) for axis in (0, 1))
    width, height = right + NARROW, bottom + 2 * ROW
    figure = Figure(figsize=(width * len(graphs), height), dpi=DPI)
    FigureCanvasAgg(figure)
    for number, (title, graph) in enumerate(graphs.items()):
        axes = figure.add_axes((number / len(graphs), 0, 1 / len(graphs), 1))
        _draw_cell(graph, places[title], axes)
        axes.text(-NODE / 2, 0.9 * ROW, title, fontsize=13, verticalalignment="center")
        axes.set(xlim=(-NARROW / 2, width - NARROW / 2), ylim=(1.3 * ROW - height, 1.3 * ROW))
        axes.axis("off")
    return figure


def _staircase(graph: networkx.MultiDiGraph) -> dict[str, tuple[float, float]]:
    """The place of each node's centre."""
    x, places = 0.0, {}
    for row, (node, before) in enumerate(zip(graph, [None, *graph], strict=False)):
        if before:
            # A name takes half a column on either side of a node, but none stands over the inputs and the output.
            x += sum(NARROW / 2 if end in (*INPUTS, OUTPUT) else COLUMN / 2 for end in (before, node))
        places[node] = (x, -ROW * row)
    return places


def _draw_cell(graph: networkx.MultiDiGraph, places: dict[str, tuple[float, float]], axes: Axes) -> None:
    size = (72 * NODE) ** 2  # square points
    turn = {"connectionstyle": "angle,angleA=0,angleB=90,rad=5", "node_size": size, "arrowsize": 9, "ax": axes}
    edges = list(graph.edges(keys=True, data="label"))
    for colour, kind in ((LIGHT, False), (DARK, True)):
        edgelist = [(source, target, key) for source, target, key, operation in edges if bool(operation) == kind]
        networkx.draw_networkx_edges(graph, places, edgelist, edge_color=colour, **turn)
    colours = [_colour(node) for node in graph]
    networkx.draw_networkx_nodes(graph, places, node_size=size, node_color=colours, edgecolors=DARK, ax=axes)
    texts = {node: f"${node}$" if "_" in node else node for node in graph}
    networkx.draw_networkx_labels(graph, places, texts, font_size=10, ax=axes)
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": DARK, "linewidth": 0.7}
    for (source, target), group in groupby(edges, key=lambda edge: edge[:2]):
        names = "\n".join(operation for *_, operation in group)
        if names:
            x, y = places[target][0], places[source][1]
            axes.text(x, y, names, bbox=box, fontsize=9, horizontalalignment="center", verticalalignment="center")
