"""Pictures of a search: its steps, alpha and beta, what was chosen to get gradient, and what was expected."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.search_cell import edge_list
from models.supernet import SupernetSettings
from search_space.architecture import input_groups, input_pairs
from search_space.board.search_record import (
    ALPHA,
    BETA,
    KINDS,
    Choices,
    RecordedStep,
    State,
    Values,
    against_final,
    correlation,
    mean_absolute_error,
)
from utils.pictures.style import ACCENT, GRID, MUTED, SERIES, TEXT, new_figure, tidy

PANEL = (4.2, 2.6)  # inches
CELL = (0.42, 0.24)  # of a heat map
MARGIN = 1.5  # around a heat map, for its names
Table = list[list[float | None]]


# --- Heat maps --------------------------------------------------------------------------------------------------------


def architecture_figure(network: SupernetSettings, states: dict[str, State]) -> Figure:
    """The probabilities of candidates and of groups of inputs, in percent, a column for each state, by name."""
    panels = []
    for cell_type in network.cell_types:
        for name, state in states.items():
            alpha = _in_percent(state.probabilities(ALPHA, cell_type))
            panels.append((f"alpha, {cell_type}{name}", alpha, _edges(network), network.primitives))
            groups = [input_groups(node, network.edge_weights) for node in range(network.nodes)]
            beta = _by_group(_in_percent(state.probabilities(BETA, cell_type)), groups)
            panels.append((f"beta, {cell_type}{name}", beta, _nodes(network), _names(network, groups[-1])))
    return _heat_maps(panels, 100)


def choices_figure(network: SupernetSettings, choices: Choices) -> Figure | None:
    """In how many of the steps each candidate and each pair got gradient; None if all of them always did."""
    panels, pairs_of = [], [input_pairs(node) for node in range(network.nodes)]
    for cell_type in network.cell_types:
        ops, pairs = choices.ops[cell_type], choices.pairs[cell_type]
        counts = [[ops[edge, op] for op in range(len(network.primitives))] for edge in range(len(_edges(network)))]
        panels.append((f"candidates, {cell_type}", counts if ops else [], _edges(network), network.primitives))
        counts = [[pairs[node, pair] for pair in of_node] for node, of_node in enumerate(pairs_of)] if pairs else []
        panels.append(
            (f"pairs, {cell_type}", _by_group(counts, pairs_of), _nodes(network), _names(network, pairs_of[-1]))
        )
    return _heat_maps(panels, choices.steps) if any(values for _, values, *_ in panels) else None


def _heat_maps(panels: list[tuple[str, Table, Sequence[str], Sequence[str]]], highest: float) -> Figure:
    """Tables of coloured cells, of alpha above those of beta. A panel: title, values, names of rows and of columns."""
    above, below = panels[::2], panels[1::2]
    rows = [above, below] if any(values for _, values, *_ in below) else [above]
    widths = [MARGIN + CELL[0] * max(len(panel[3]) for panel in column) for column in zip(*rows, strict=True)]
    heights = [MARGIN + CELL[1] * len(row[0][2]) for row in rows]
    figure = new_figure(sum(widths), sum(heights))
    every = figure.subplots(len(rows), len(above), squeeze=False, width_ratios=widths, height_ratios=heights)
    for axes, panel in zip(every.flat, (panel for row in rows for panel in row), strict=True):
        _heat_map(axes, *panel, highest)
    return figure


def _heat_map(
    axes: Axes, title: str, values: Table, rows: Sequence[str], columns: Sequence[str], highest: float
) -> None:
    """None leaves a cell empty; a value that is not finite is a "?"."""
    tidy(axes)
    axes.set_title(title, color=TEXT, fontsize=9)
    if not values:
        axes.set_axis_off()
        return
    numbers = np.array(values, dtype=float)
    axes.imshow(np.ma.masked_invalid(numbers), cmap="Blues", vmin=0, vmax=highest or 1, aspect="auto")
    for (row, column), number in np.ndenumerate(numbers):
        if values[row][column] is not None:
            dark = number > highest / 2
            text = f"{number:.0f}" if math.isfinite(number) else "?"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else TEXT)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)


def _in_percent(rows: list[list[float]]) -> Table:
    return [[100 * value for value in row] for row in rows]


def _by_group(rows: Table, groups: list[list[tuple]]) -> Table:
    """A row for each node with a column for each of the last node's groups of inputs: the others' are among them."""
    by_node = [dict(zip(of_node, row, strict=True)) for of_node, row in zip(groups, rows, strict=False)]
    return [[values.get(group) for group in groups[-1]] for values in by_node]


def _states(network: SupernetSettings) -> list[str]:
    return ["c-2", "c-1", *map(str, range(network.nodes))]


def _edges(network: SupernetSettings) -> list[str]:
    return [f"{_states(network)[source]} to {node}" for source, node in edge_list(network.nodes)]


def _nodes(network: SupernetSettings) -> list[str]:
    return [f"node {node}" for node in range(network.nodes)]


def _names(network: SupernetSettings, groups: list[tuple]) -> list[str]:
    return [", ".join(_states(network)[source] for source in group) for group in groups]


# --- Curves -----------------------------------------------------------------------------------------------------------


def steps_figure(steps: Sequence[RecordedStep]) -> Figure:
    """A task's loss, accuracies, temperature and learning rates, step by step."""
    curves = {
        "loss": {"training": [step.result.loss for step in steps]},
        "accuracy": {
            "training": [step.result.accuracy for step in steps],
            "validation": [step.result.validation_accuracy for step in steps],
        },
        "temperature": {"T": [step.temperature for step in steps]},
        "learning rate": {"weights": [step.w_lr for step in steps], "alpha": [step.alpha_lr for step in steps]},
    }
    figure = new_figure(len(curves) * PANEL[0], PANEL[1])
    numbers = range(1, len(steps) + 1)
    for axes, (title, lines) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        _curves(axes, title, {name: list(zip(numbers, values, strict=True)) for name, values in lines.items()}, "step")
    return figure


def expectation_figure(expected: dict[int, Values], final: Values, unit: str) -> Figure | None:
    """How far what was expected of alpha and beta was from what they became; half-way, number by number.

    Args:
        expected: by number of the step or epoch after which it was expected.
        unit: what is numbered, "step" or "epoch".

    Returns:
        None if nothing was expected.
    """
    if not expected:
        return None
    points = {kind: {at: against_final(values, final, kind) for at, values in expected.items()} for kind in KINDS}
    points = {kind: of_kind for kind, of_kind in points.items() if all(of_kind.values())}  # equal weights have no beta
    measures = {"mean absolute error": mean_absolute_error, "correlation": correlation}
    figure = new_figure((len(measures) + len(points)) * PANEL[0], PANEL[1])
    every = figure.subplots(1, len(measures) + len(points))
    for axes, (title, measure) in zip(every, measures.items(), strict=False):
        lines = {kind: [(at, measure(pairs)) for at, pairs in of_kind.items()] for kind, of_kind in points.items()}
        _curves(axes, f"expected against final: {title}", lines, unit)
    middle = list(expected)[len(expected) // 2]
    for axes, (kind, of_kind) in zip(every[len(measures) :], points.items(), strict=True):
        tidy(axes, "both")
        axes.set_title(f"{kind}, expected after {unit} {middle}", color=TEXT, fontsize=9)
        axes.scatter(*zip(*of_kind[middle], strict=True), s=8, color=ACCENT)
        axes.axline((0, 0), slope=1, color=GRID)
        axes.set_xlabel("expected final value", color=MUTED)
        axes.set_ylabel("final value", color=MUTED)
    return figure


def _curves(axes: Axes, title: str, lines: dict[str, Iterable[tuple[int, float | None]]], x_name: str) -> None:
    tidy(axes, "y")
    for (name, points), colour in zip(lines.items(), SERIES, strict=False):
        known = [(x, y) for x, y in points if y is not None]
        if known:
            axes.plot(*zip(*known, strict=True), marker=".", color=colour, label=name)
    axes.set_title(title, color=TEXT, fontsize=9)
    axes.set_xlabel(x_name, color=MUTED)
    if len(lines) > 1 and axes.has_data():
        axes.legend(frameon=False, fontsize=8)
