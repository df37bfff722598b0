"""The bar chart of few-shot accuracy: a panel a data set, a bar for each row of the table."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.run.files import replacing
from utils.tables.few_shot import OF_PAPER, RUN, UNFINISHED
from utils.tables.text import percent, title

ROW = 0.26  # inches from a bar to the next
COLOURS = {"full": "tab:blue", "onnas": "tab:orange", "random": "tab:green", "darts": "tab:purple"}
COLOURS |= {"metanas": "tab:brown", "pcdarts": "tab:cyan"}
PUBLISHED_COLOUR = "lightgrey"


def draw_accuracy(table: list[dict], path: Path) -> None:
    """Draws a PNG of the few-shot table's rows.

    Raises:
        InputError: the file cannot be written.
    """
    by_dataset: dict[str, list[dict]] = {}
    for row in table:
        by_dataset.setdefault(row["dataset"], []).append(row)
    heights = [len(rows) + 3 for rows in by_dataset.values()]
    figure = Figure(figsize=(10, ROW * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(by_dataset), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (dataset, rows) in zip(panels, by_dataset.items(), strict=True):
        _draw_panel(axes, rows)
        axes.set_title(f"{title(dataset)}: accuracy (%), with the 95 % interval over tasks")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_panel(axes: Axes, rows: list[dict]) -> None:
    for place, row in enumerate(rows):
        label, end = _label(row), 0.0
        if row["state"] in (RUN, OF_PAPER):
            spread = row.get("accuracy_ci95")
            end = 100 * (row["accuracy"] + (spread or 0))
            colour = COLOURS.get(row.get("search"), PUBLISHED_COLOUR)
            axes.barh(place, 100 * row["accuracy"], color=colour, height=0.8)
            if spread is not None:
                axes.errorbar(100 * row["accuracy"], place, xerr=100 * spread, color="black", capsize=3, linewidth=1)
        axes.text(end + 1, place, label, va="center", fontsize=8, color="black" if end else "grey")
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=8)
    axes.set(xlim=(0, 112), xticks=range(0, 101, 20), ylim=(len(rows) - 0.4, -0.6))
    axes.spines[["top", "right"]].set_visible(False)


def _label(row: dict) -> str:
    if row["state"] == UNFINISHED:
        return f"unfinished: {row['progress']}"
    return percent(row.get("accuracy"), row.get("accuracy_ci95")) or row["state"]


def _name(row: dict) -> str:
    words = [f"{row['ways']}-way {row['shots']}-shot", row["method"], row.get("schedule", "")]
    words.append("subset" if row.get("data", "").startswith("subset") else "")
    return ", ".join(word for word in words if word)
