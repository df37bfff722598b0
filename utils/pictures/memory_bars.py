"""The bar chart of peak memory: a panel a data set, a group of bars for each way to search."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.run.files import replacing

Panels = dict[str, dict[str, dict[str, float | None]]]


def draw_memory_bars(panels: Panels, path: Path, absent: dict[str, str] | None = None) -> None:
    """Draws a PNG with a logarithmic axis.

    Args:
        panels: title -> series -> way to search -> peak; None where there is none. All have the same ways and series.
        absent: series -> what to write in the place of a bar.

    Raises:
        InputError: the file cannot be written.
    """
    series = next(iter(panels.values()))
    ways = list(next(iter(series.values())))
    step = 0.81 / len(series)
    height = 1 + len(ways) * max(0.5, 0.15 * len(series))
    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (axes, (title, values)) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)
    ):
        for offset, (label, peaks) in enumerate(values.items()):
            places = [place + step * (offset - (len(values) - 1) / 2) for place in range(len(ways))]
            bars = axes.barh(places, [peaks[way] or 0 for way in ways], height=0.92 * step, label=label)
            axes.bar_label(bars, [f"{peaks[way]:.0f}" if peaks[way] else "" for way in ways], padding=2, fontsize=7)
            for place, way in zip(places, ways, strict=True):
                if peaks[way] is None and absent:  # a bar of length 0 has no place on a logarithmic axis
                    axes.text(1.1, place, absent.get(label, ""), va="center", fontsize=7, color="grey")
        axes.set(title=title, xscale="log", xlim=(1, 20000))
        axes.set_yticks(range(len(ways)), ways if number == 0 else [""] * len(ways))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
