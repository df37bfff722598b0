"""The bar charts of the tables: a panel a data set."""

from pathlib import Path

from matplotlib.axes import Axes

from utils.pictures.style import ACCENT, MUTED, SECOND, TEXT, new_figure, save_png, tidy

ROW = 0.26  # inches from a bar to the next
COLOURS = {"full": ACCENT, "onnas": SECOND, "random": "#22806f", "darts": "#7b55a5"}
COLOURS |= {"metanas": "#8c6d31", "pcdarts": "#3d9bb3"}
PUBLISHED = "#c9c7c2"
SERIES = (PUBLISHED, MUTED, ACCENT, SECOND, "#22806f", "#7b55a5")  # of memory: what was published, then ours

Peaks = dict[str, float | None]  # by way to search; None where there is none


def draw_memory(panels: dict[str, dict[str, Peaks]], path: Path, absent: dict[str, str] | None = None) -> None:
    """Draws a PNG of peaks of memory, along a logarithmic axis.

    Args:
        panels: title -> series -> peaks. All have the same ways and series.
        absent: series -> what to write in the place of a bar that is not there.

    Raises:
        InputError: the file cannot be written.
    """
    series = next(iter(panels.values()))
    ways = list(next(iter(series.values())))
    figure = new_figure(11, 1.4 + len(ways) * max(0.5, 0.16 * len(series)))
    for axes, (title, values) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        height = 0.81 / len(values)
        for number, (label, peaks) in enumerate(values.items()):
            places = [place + height * (number - (len(values) - 1) / 2) for place in range(len(ways))]
            colour = SERIES[number % len(SERIES)]
            bars = axes.barh(places, [peaks[way] or 0 for way in ways], 0.92 * height, label=label, color=colour)
            texts = [f"{peaks[way]:.0f}" if peaks[way] else "" for way in ways]
            axes.bar_label(bars, texts, padding=2, fontsize=7, color=TEXT)
            for place, way in zip(places, ways, strict=True):
                if peaks[way] is None and absent:  # a bar of length 0 has no place on a logarithmic axis
                    axes.text(1.1, place, absent.get(label, ""), va="center", fontsize=7, color=MUTED)
        tidy(axes, "x")
        axes.set(xscale="log", xlim=(1, 20000), yticks=range(len(ways)), yticklabels=ways)
        axes.set_title(title, color=TEXT)
    axes.invert_yaxis()  # shared by all panels
    figure.supxlabel("peak memory in MiB (the paper's in MB), a logarithmic axis", color=MUTED, fontsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    save_png(figure, path)


def draw_accuracy(panels: dict[str, list[dict]], path: Path) -> None:
    """Draws a PNG of accuracies in percent.

    Args:
        panels: by title, the bars: name, label (what is written at its end), value and half (of the interval), both
            None where there is no bar, and kind (the search; None: published).

    Raises:
        InputError: the file cannot be written.
    """
    heights = [len(bars) + 3 for bars in panels.values()]
    figure = new_figure(10, ROW * sum(heights))
    every = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, bars) in zip(every, panels.items(), strict=True):
        _draw_accuracy(axes, bars)
        axes.set_title(f"{title}: accuracy (%), with the 95 % interval over tasks", color=TEXT)
    save_png(figure, path)


def _draw_accuracy(axes: Axes, bars: list[dict]) -> None:
    for place, bar in enumerate(bars):
        end = 0.0
        if bar["value"] is not None:
            end = bar["value"] + bar["half"]
            axes.barh(place, bar["value"], color=COLOURS.get(bar["kind"], PUBLISHED), height=0.8)
            if bar["half"]:
                axes.errorbar(bar["value"], place, xerr=bar["half"], color=TEXT, capsize=3, linewidth=1)
        axes.text(end + 1, place, bar["label"], va="center", fontsize=8, color=TEXT if end else MUTED)
    tidy(axes, "x")
    axes.set_yticks(range(len(bars)), [bar["name"] for bar in bars], fontsize=8)
    axes.set(xlim=(0, 112), xticks=range(0, 101, 20), ylim=(len(bars) - 0.4, -0.6))
