"""Figures with one palette, as PNG or as SVG that is readable in light and in dark pages."""

import io
import re
from pathlib import Path

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.run.files import replacing

# What a colour is for: in a PNG it is this, in a page the variable of its style sheet that has the name.
PALETTE = {
    "text": "#1b1d20",
    "muted": "#5b6068",
    "grid": "#e7e6e3",
    "page": "#fcfcfb",
    "card": "#f3f2ef",
    "accent": "#1d5fa8",
    "second": "#b4571b",
}
TEXT, MUTED, GRID, PAGE, CARD, ACCENT, SECOND = PALETTE.values()
SERIES = (ACCENT, SECOND)
DPI = 110


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAGE)
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, grid: str | None = None) -> None:
    """Takes off the frame; ``grid``: the axis, "x" or "y", whose ticks get lines, or None."""
    axes.set_facecolor("none")
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0, labelcolor=MUTED)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=GRID)


def save_png(figure: Figure, path: Path) -> None:
    """Writes a PNG.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def as_svg(figure: Figure, description: str) -> Markup:
    """The figure as an element of a page: its text is text, its colours are variables of the page's style sheet.

    Args:
        description: for those who cannot see it.
    """
    file, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "page"}):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r' (xmlns(:\w+)?|width|height|version)="[^"]*"', "", svg, count=5
    )  # the page's own, of the <svg> itself
    svg = re.sub(r' id="[a-z0-9]+_\d+"', "", svg)  # that another figure has, too
    # Nothing leaves the axes, and a style would be that of the whole page.
    svg = re.sub(r' clip-path="[^"]*"|<clipPath.*?</clipPath>|<style.*?</style>', "", svg, flags=re.DOTALL)
    for name, colour in PALETTE.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1))
