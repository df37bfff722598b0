"""Small plots as images, quick to draw and few kilobytes large."""

import math
from functools import cache

from PIL import Image, ImageDraw, ImageFont

FONT_SIZE = 11
ROW = 22  # height of a cell of a heat map, in pixels
GAP = 8  # between a name and what it names
PLOT = 260  # side of a scatter plot's square
DOT = 2  # radius
INK, PAPER, FAINT, DEEP = (40, 40, 40), (255, 255, 255), (225, 225, 225), (12, 70, 130)


def heat_map(values: list[list[float | None]], rows: list[str], columns: list[str], highest: float) -> Image.Image:
    """A table of coloured cells with their values in whole numbers, paper for 0 and deep blue for ``highest``.

    Args:
        values: a list for each row; None leaves a cell empty, a value that is not finite makes it a grey "?".
    """
    drawing = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = max(_width(drawing, name) for name in rows) + 2 * GAP
    width = max(_width(drawing, name) for name in columns) + GAP
    image = Image.new("RGB", (left + width * len(columns) + GAP, ROW * (len(rows) + 1) + GAP), PAPER)
    drawing = ImageDraw.Draw(image)
    for column, name in enumerate(columns):
        _write(drawing, (left + (column + 0.5) * width, ROW / 2), name, "mm")
    for row, (name, cells) in enumerate(zip(rows, values, strict=True), start=1):
        _write(drawing, (left - GAP, (row + 0.5) * ROW), name, "rm")
        for column, value in enumerate(cells):
            if value is not None:
                corner = (left + column * width, row * ROW)
                _draw_cell(drawing, corner, width, value, highest)
    return image


def _draw_cell(drawing: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, value: float, highest: float) -> None:
    left, top = corner
    share = min(max(value / highest, 0.0), 1.0) if math.isfinite(value) else None
    fill = FAINT if share is None else tuple(round(p + share * (d - p)) for p, d in zip(PAPER, DEEP, strict=True))
    drawing.rectangle((left, top, left + width, top + ROW), fill=fill, outline=FAINT)
    text = "?" if share is None else f"{value:.0f}"
    _write(drawing, (left + width / 2, top + ROW / 2), text, "mm", PAPER if share and share > 0.5 else INK)


def scatter(points: list[tuple[float, float]], across: str, up: str) -> Image.Image:
    """Dots over a square with its diagonal, both axes of one range; a point that is not finite is left out.

    Args:
        across, up: what the axes are.
    """
    finite = [point for point in points if all(map(math.isfinite, point))]
    numbers = [number for point in finite for number in point] or [0.0]
    low, high = min(numbers), max(numbers)
    span = high - low or 1.0
    margin = 3 * FONT_SIZE
    image = Image.new("RGB", (PLOT + 2 * margin, PLOT + 2 * margin), PAPER)
    drawing = ImageDraw.Draw(image)
    start, end = margin, margin + PLOT
    drawing.rectangle((start, start, end, end), outline=INK)
    drawing.line((start, end, end, start), fill=FAINT)
    for x, y in finite:
        place = (start + PLOT * (x - low) / span, end - PLOT * (y - low) / span)
        drawing.ellipse((place[0] - DOT, place[1] - DOT, place[0] + DOT, place[1] + DOT), fill=DEEP)
    _write(drawing, (start, start - GAP), up, "ls")
    _write(drawing, ((start + end) / 2, end + GAP), across, "ma")
    _write(drawing, (start, end + GAP), f"{low:.3g}", "ma")
    _write(drawing, (end, end + GAP), f"{high:.3g}", "ma")
    return image


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(FONT_SIZE)


def _width(drawing: ImageDraw.ImageDraw, text: str) -> int:
    return math.ceil(drawing.textlength(text, _font()))


def _write(drawing: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str, fill=INK) -> None:
    drawing.text(place, text, font=_font(), fill=fill, anchor=anchor)
