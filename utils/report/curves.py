"""The learning curves of a run, a chart for each thing that was measured over and over."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from markupsafe import Markup

from utils.pictures.curves import Curve, curve_figure
from utils.pictures.style import as_svg
from utils.results.intervals import mean_and_ci95
from utils.results.log_rows import AnyRow
from utils.results.schema import FEW_SHOT, FULL, TFML
from utils.results.settings import OWN

POINTS = 100  # of a curve

Logs = dict[str, list[AnyRow]]


class Chart(NamedTuple):
    """Curves over one pair of axes; see :func:`curve_figure`."""

    caption: str
    curves: Sequence[Curve]
    x_name: str
    fractions: bool = False

    def as_svg(self) -> Markup:
        curves = [curve for curve in self.curves if curve.points]
        return as_svg(curve_figure(curves, self.x_name, self.fractions), self.caption)


def charts(kind: str, logs: Logs) -> list[Chart]:
    """The charts of a run of a kind that have a curve to show yet, which takes two points."""
    return [chart for chart in CHARTS[kind](logs) if any(len(curve.points) > 1 for curve in chart.curves)]


def few_shot_charts(logs: Logs) -> list[Chart]:
    def line(key: str, name: str) -> Curve:
        return running_mean(name, points_of(logs["tasks"], key))

    each = Curve("each task, after", points_of(logs["tasks"], "accuracy"), dots=True, faint=True)
    found = line("found_accuracy", "network found")
    accuracy = [line("accuracy", "after adapting"), found if found.points else line("accuracy_before", "before"), each]
    of_what = "on the queries, mean over the tasks so far with its 95 % interval"
    return [
        Chart(f"Accuracy {of_what}", accuracy, "tasks", fractions=True),
        Chart(f"Loss {of_what}", [line("loss", "after adapting")], "tasks"),
    ]


def full_task_charts(logs: Logs) -> list[Chart]:
    def line(log: str, key: str, name: str) -> Curve:
        return Curve(name, points_of(logs[log], key, first=0))

    halves = [line("search", "accuracy", "weights' half"), line("search", "validation_accuracy", "architecture's half")]
    training = "training images"
    return [
        Chart("Search: accuracy", halves, "epochs, from 0", fractions=True),
        Chart("Search: loss", [line("search", "loss", "weights' half")], "epochs, from 0"),
        Chart("Derived network: accuracy", [line("derived", "accuracy", training)], "epochs, from 0", fractions=True),
        Chart("Derived network: loss", [line("derived", "loss", training)], "epochs, from 0"),
    ]


def tfml_charts(logs: Logs) -> list[Chart]:
    rows = logs["metrics"]
    tested = [row for row in rows if row.test_accuracy is not None]

    def both(key: str, margins: list[float]) -> list[Curve]:
        training = means("meta-training", points_of(rows, f"train_{key}"))
        return [training, Curve("meta-test", points_of(tested, f"test_{key}"), margins, dots=True)]

    margins = [row.test_accuracy_ci95 or 0.0 for row in tested]
    return [
        Chart("Accuracy, with 95 % intervals", both("accuracy", margins), "meta-epochs", fractions=True),
        Chart("Loss", both("loss", []), "meta-epochs"),
    ]


CHARTS = {OWN: lambda logs: [], FEW_SHOT: few_shot_charts, FULL: full_task_charts, TFML: tfml_charts}


def points_of(rows: list[AnyRow], key: str, first: int = 1) -> list[tuple[float, float]]:
    """The points of a curve; a row without the key has none.

    Args:
        first: what the number 0 is counted as.
    """
    values = ((getattr(row, row.index) + first, getattr(row, key)) for row in rows)
    return [(x, y) for x, y in values if y is not None]


def running_mean(name: str, points: list[tuple[float, float]]) -> Curve:
    """The mean of the values up to each, with its 95 % interval; from the second on, as one value has none."""
    values = [y for _, y in points]
    # Backwards, so that of many points the last is among those that are shown.
    numbers = range(len(points), 1, -max(1, -(-len(points) // POINTS)))[::-1]
    so_far = [mean_and_ci95(values[:number]) for number in numbers]
    places = [(points[number - 1][0], mean) for number, (mean, _) in zip(numbers, so_far, strict=True)]
    return Curve(name, places, [ci95 for _, ci95 in so_far])


def means(name: str, points: list[tuple[float, float]]) -> Curve:
    """Of many points the means over as many stretches as a curve can show, each with its 95 % interval."""
    size = -(-len(points) // POINTS)
    if size < 2:
        return Curve(name, points)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    values = [mean_and_ci95([y for _, y in part]) for part in parts]
    places = [(fmean(x for x, _ in part), mean) for part, (mean, _) in zip(parts, values, strict=True)]
    return Curve(name, places, [ci95 or 0.0 for _, ci95 in values])
