"""Curves as inline SVG, which takes its colours and its type from the style sheet of the page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from utils.report.markup import Markup, join, tag

# In units of the drawing: on a phone, where it is as wide as the page, about a pixel.
WIDTH, HEIGHT = 360, 216
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 38
TICKS = 5  # an axis has about so many


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


class _Scale:
    """The places of values on an axis: ``low`` is drawn at ``start``, ``high`` at ``end``."""

    def __init__(self, low: float, high: float, start: float, end: float):
        self.low, self.high = low, high
        self._start, self._length = start, end - start

    def __call__(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self._start + share * self._length:.1f}"


def chart(
    curves: Sequence[Curve], description: str, x_name: str, as_text: Callable[[float], str], limit: float = math.inf
) -> Markup:
    """Draws curves over one pair of axes; ``n`` is of the style sheet's class "series-n".

    Args:
        curves: with two points or more between them, all finite.
        description: for those who cannot see it.
        x_name: what is counted along the horizontal axis, in whole numbers.
        as_text: a value of the vertical axis as its tick says it.
        limit: the largest value that there can be; the smallest is 0.
    """
    x_values = [x for curve in curves for x, _ in curve.points]
    ends = [y for curve in curves for _, y in curve.points]
    ends += [end for curve in curves for interval in _intervals(curve, limit) for end in interval]
    y_ticks = [value for value in ticks(min(ends), max(ends)) if 0 <= value <= limit]
    x_low, x_high = min(x_values), max(x_values)
    x_scale = _Scale(x_low, x_high if x_high > x_low else x_low + 1, LEFT, WIDTH - RIGHT)
    y_scale = _Scale(min(*y_ticks, *ends), max(*y_ticks, *ends), HEIGHT - BOTTOM, TOP)
    parts = [_axes(x_scale, y_scale, y_ticks, x_name, as_text)]
    behind_first = sorted(enumerate(curves), key=lambda entry: not entry[1].faint)
    parts += [_draw(curve, number, x_scale, y_scale, limit) for number, curve in behind_first]
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=description, class_="chart")


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers around ``low`` to ``high``, about TICKS of them; the first and the last may lie beyond.

    Args:
        whole: whole numbers only, and none beyond.
    """
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1, round(step))
        return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def _axes(x: _Scale, y: _Scale, y_ticks: list[float], x_name: str, as_text: Callable[[float], str]) -> Markup:
    lines = [f"M{LEFT} {y(value)}H{WIDTH - RIGHT}" for value in y_ticks]
    parts = [tag("path", d="".join(lines), class_="grid")]
    for value in y_ticks:
        parts.append(tag("text", as_text(value), x=LEFT - 6, y=y(value), dy="0.32em", text_anchor="end"))
    for value in ticks(x.low, x.high, whole=True):
        parts.append(tag("text", f"{value:,}", x=x(value), y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    parts.append(tag("text", x_name, x=WIDTH - RIGHT, y=HEIGHT - 5, text_anchor="end", class_="axis-name"))
    return join(parts)


def _intervals(curve: Curve, limit: float) -> list[tuple[float, float]]:
    """The low and the high end at each point, none where the margins are not known."""
    pairs = zip(curve.points, curve.margins, strict=True) if curve.margins else ()
    return [(max(y - margin, 0), min(y + margin, limit)) for (_, y), margin in pairs]


def _draw(curve: Curve, number: int, x: _Scale, y: _Scale, limit: float) -> Markup:
    places = [(x(a), y(b)) for a, b in curve.points]
    intervals = [(y(low), y(high)) for low, high in _intervals(curve, limit)]
    spans = [(place, low, high) for (place, _), (low, high) in zip(places, intervals, strict=False)]
    parts = []
    if curve.dots:
        if spans:
            parts.append(tag("path", d="".join(f"M{place} {low}V{high}" for place, low, high in spans), class_="bars"))
        dots = "".join(f"M{a} {b}h0" for a, b in places)  # a line of no length with round ends is a dot
        parts.append(tag("path", d=dots, class_="faint" if curve.faint else "dots"))
    else:
        if spans:
            around = [(place, low) for place, low, _ in spans] + [(place, high) for place, _, high in reversed(spans)]
            parts.append(tag("path", d=f"{_line(around)}Z", class_="band"))
        parts.append(tag("path", d=_line(places), class_="line"))
    return tag("g", *parts, class_=f"series-{number}")


def _line(places: Sequence[tuple[str, str]]) -> str:
    alone = "h0" if len(places) == 1 else ""
    return "M" + "L".join(f"{a} {b}" for a, b in places) + alone
