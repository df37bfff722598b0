"""Curves as SVG: what is drawn, read back with the help of the ticks."""

import re
from html.parser import HTMLParser

import pytest
from utils.report.chart import Curve, chart, ticks


class Drawing(HTMLParser):
    """An SVG's paths by class, and its texts with their places."""

    def __init__(self, markup: str):
        super().__init__()
        self.paths, self.texts, self._place = {}, {}, None
        self.feed(markup)

    def handle_starttag(self, name, attributes):
        values = dict(attributes)
        if name == "path":
            self.paths[values["class"]] = values["d"]
        self._place = (float(values["x"]), float(values["y"])) if name == "text" else None

    def handle_data(self, text):
        if self._place:
            self.texts[text] = self._place

    def values(self, path: str, x_ticks: tuple[str, str], y_ticks: tuple[str, str]) -> list[tuple[float, float]]:
        """The points of a path in the units of the axes, told by two ticks of each."""
        scales = []
        for axis, names in enumerate((x_ticks, y_ticks)):
            first, second = (float(name.strip(" %")) for name in names)
            start, end = (self.texts[name][axis] for name in names)
            scales.append((first, start, (second - first) / (end - start)))
        points = re.findall(r"([\d.]+) ([\d.]+)", self.paths[path])
        return [
            tuple(
                first + (float(place) - start) * unit for place, (first, start, unit) in zip(point, scales, strict=True)
            )
            for point in points
        ]


def near(points: list[tuple[float, float]], x: float, y: float) -> list:
    """Points up to what a tenth of a unit of the drawing is on the axes."""
    return [(pytest.approx(a, abs=x), pytest.approx(b, abs=y)) for a, b in points]


def test_a_line_with_its_band_and_dots():
    line = Curve("mean", [(1, 0.2), (11, 0.45), (21, 0.9)], [0.1, 0.05, 0.2])
    dots = Curve("test", [(21, 0.6)], [0.1], dots=True)
    drawing = Drawing(chart([line, dots], "a chart", "tasks", lambda value: f"{100 * value:g} %", limit=1))
    at = (("10", "20"), ("20 %", "80 %"))
    percents = [(x, 100 * y) for x, y in line.points]
    assert drawing.values("line", *at) == near(percents, 0.02, 0.2)
    # Along the low ends and back along the high ones, the last of which cannot be more than 100 %.
    band = [(1, 10), (11, 40), (21, 70), (21, 100), (11, 50), (1, 30)]
    assert drawing.values("band", *at) == near(band, 0.02, 0.2)
    assert drawing.values("dots", *at) == near([(21, 60)], 0.02, 0.2)
    assert set(drawing.paths) == {"grid", "line", "band", "bars", "dots"}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.312, 0.561, [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6]),
        (3, 4700, [0, 1000, 2000, 3000, 4000, 5000]),
        (0.0011, 0.0049, [0.001, 0.002, 0.003, 0.004, 0.005]),
    ],
)
def test_ticks_are_round_and_hold_the_values(low, high, expected):
    assert ticks(low, high) == expected


@pytest.mark.parametrize("value", [0, 1, 0.35, 1e-6])
def test_ticks_of_a_single_value_lie_on_both_sides(value):
    values = ticks(value, value)
    assert values[0] < value < values[-1]
    assert len(values) < 12


def test_what_is_counted_has_whole_ticks():
    assert ticks(1, 3, whole=True) == [1, 2, 3]
    assert ticks(1, 100, whole=True) == [20, 40, 60, 80, 100]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_no_tick_beyond_what_can_be(value):
    curve = Curve("all the same", [(1, value), (2, value)])
    drawing = Drawing(chart([curve], "a chart", "tasks", lambda value: f"{100 * value:g} %", limit=1))
    shown = [float(text.strip(" %")) for text in drawing.texts if text.endswith("%")]
    assert 0 <= min(shown) <= 100 * value <= max(shown) <= 100
