"""The learning curves of a run, a chart for each thing that was measured over and over."""

from collections.abc import Sequence
from statistics import fmean

from utils.report.chart import Curve, chart
from utils.report.markup import Markup, tag
from utils.report.run_files import FEW_SHOT, FULL, TFML
from utils.results.intervals import mean_and_ci95

POINTS = 100  # of a curve

Logs = dict[str, list[dict]]


def charts(kind: str, logs: Logs) -> list[Markup]:
    """The charts of a run of a kind that have something to show yet."""
    return [drawn for drawn in CHARTS[kind](logs) if drawn]


def few_shot_curves(logs: Logs) -> list[Markup]:
    def line(key: str, name: str) -> Curve:
        return running_mean(name, points_of(logs["tasks"], "task", key, first=1))

    each = Curve("each task, after", points_of(logs["tasks"], "task", "accuracy", first=1), dots=True, faint=True)
    accuracy = [line("accuracy", "after adapting"), line("accuracy_before", "before"), each]
    of_what = "on the queries, mean over the tasks so far with its 95 % interval"
    return [
        figure(f"Accuracy {of_what}", accuracy, "tasks", fractions=True),
        figure(f"Loss {of_what}", [line("loss", "after adapting")], "tasks"),
    ]


def full_task_curves(logs: Logs) -> list[Markup]:
    def line(log: str, key: str, name: str) -> Curve:
        return Curve(name, points_of(logs[log], "epoch", key))

    halves = [line("search", "accuracy", "weights' half"), line("search", "validation_accuracy", "architecture's half")]
    return [
        figure("Search: accuracy", halves, "epochs, from 0", fractions=True),
        figure("Search: loss", [line("search", "loss", "weights' half")], "epochs, from 0"),
        figure(
            "Derived network: accuracy",
            [line("derived", "accuracy", "training images")],
            "epochs, from 0",
            fractions=True,
        ),
        figure("Derived network: loss", [line("derived", "loss", "training images")], "epochs, from 0"),
    ]


def tfml_curves(logs: Logs) -> list[Markup]:
    rows = logs["metrics"]
    tested = [row for row in rows if "test_accuracy" in row]

    def both(key: str, margins: list[float]) -> list[Curve]:
        training = means("meta-training", points_of(rows, "meta_epoch", f"train_{key}", first=1))
        test = points_of(tested, "meta_epoch", f"test_{key}", first=1)
        return [training, Curve("meta-test", test, margins, dots=True)]

    margins = [row.get("test_accuracy_ci95", 0.0) for row in tested]
    return [
        figure("Accuracy, with 95 % intervals", both("accuracy", margins), "meta-epochs", fractions=True),
        figure("Loss", both("loss", []), "meta-epochs"),
    ]


CHARTS = {FEW_SHOT: few_shot_curves, FULL: full_task_curves, TFML: tfml_curves}


def points_of(rows: list[dict], x: str, y: str, first: int = 0) -> list[tuple[float, float]]:
    """The points of a curve; a row without the key has none.

    Args:
        first: what the number 0 is counted as.
    """
    return [(row[x] + first, row[y]) for row in rows if y in row]


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


def figure(caption: str, curves: Sequence[Curve], x_name: str, fractions: bool = False) -> Markup:
    """A chart under its caption and its legend; nothing where there is no curve yet.

    Args:
        fractions: the values are from 0 to 1, and shown in per cent.
    """
    curves = [curve for curve in curves if curve.points]
    if all(len(curve.points) < 2 for curve in curves):
        return Markup()
    legend = [tag("li", tag("i"), curve.name, class_=_look(number, curve)) for number, curve in enumerate(curves)]
    if fractions:
        drawing = chart(curves, caption, x_name, lambda value: f"{100 * value:g} %", limit=1)
    else:
        drawing = chart(curves, caption, x_name, lambda value: f"{value:g}")
    return tag("figure", tag("figcaption", caption), tag("ul", *legend, class_="legend"), drawing)


def _look(number: int, curve: Curve) -> str:
    return "faint" if curve.faint else f"series-{number} dots" if curve.dots else f"series-{number}"
