"""Learning curves over one pair of axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utils.pictures.style import MUTED, SERIES, new_figure, tidy

SIZE = (4.4, 2.8)  # inches


@dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    points: (x, y), from left to right. margins: half of the interval at each of them, if known.
    dots: the points stand for themselves, and intervals are bars; else a line goes through them, along a band.
    faint: dots that are there for comparison, small and pale.
    """

    name: str
    points: Sequence[tuple[float, float]]
    margins: Sequence[float] = ()
    dots: bool = False
    faint: bool = False


def curve_figure(curves: Sequence[Curve], x_name: str, fractions: bool) -> Figure:
    """Draws curves, one or more, under a legend.

    Args:
        x_name: what is counted along the horizontal axis, in whole numbers.
        fractions: the values are from 0 to 1, and shown in percent.
    """
    figure = new_figure(*SIZE)
    axes = figure.subplots()
    tidy(axes, "y")
    colours, most = iter(SERIES), 1 if fractions else math.inf
    for curve in curves:
        look = {"label": curve.name, "color": SERIES[0] if curve.faint else next(colours)}
        x, y = zip(*curve.points, strict=True)
        margins = curve.margins or [0] * len(y)
        low = [max(value - margin, 0) for value, margin in zip(y, margins, strict=True)]
        high = [min(value + margin, most) for value, margin in zip(y, margins, strict=True)]
        if curve.dots:
            axes.plot(x, y, "o", markersize=2 if curve.faint else 4, alpha=0.45 if curve.faint else 1, **look)
            axes.vlines(x, low, high, color=look["color"])
        else:
            axes.plot(x, y, linestyle="-" if look["color"] == SERIES[0] else "--", **look)
            axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(max(axes.get_ylim()[0], 0), min(axes.get_ylim()[1], 1.01 * most))
    if fractions:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set_xlabel(x_name, color=MUTED, loc="right")
    figure.legend(loc="outside upper left", ncols=3, frameon=False, labelcolor=MUTED)
    return figure
