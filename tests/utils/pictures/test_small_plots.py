"""Small plots, pixel by pixel where it matters."""

import math

import pytest
from utils.pictures.small_plots import DEEP, FAINT, PAPER, ROW, heat_map, scatter


def corners(image, columns: int, rows: int) -> list[list[tuple]]:
    """The colour of each cell, beside its outline and where no text is."""
    left = next(x for x in range(image.width) if image.getpixel((x, ROW)) == FAINT)
    step = next(x for x in range(left + 1, image.width) if image.getpixel((x, ROW + 3)) == FAINT) - left
    return [
        [image.getpixel((left + column * step + 3, (row + 1) * ROW + 3)) for column in range(columns)]
        for row in range(rows)
    ]


def test_colours_of_a_heat_map():
    image = heat_map([[0, 50, 100], [25, 120, -3]], ["one", "another one"], ["a", "b", "c"], 100)
    half = tuple(round((p + d) / 2) for p, d in zip(PAPER, DEEP, strict=True))
    quarter = tuple(round((3 * p + d) / 4) for p, d in zip(PAPER, DEEP, strict=True))
    # What is beyond the ends has their colours.
    assert corners(image, 3, 2) == [[PAPER, half, DEEP], [quarter, DEEP, PAPER]]


def test_what_is_not_there_and_what_is_not_finite():
    image = heat_map([[100, None], [math.nan, math.inf]], ["a", "b"], ["c", "d"], 100)
    assert corners(image, 2, 2) == [[DEEP, PAPER], [FAINT, FAINT]]
    assert PAPER != FAINT != DEEP


def test_longer_names_make_it_wider_and_more_rows_taller():
    small = heat_map([[1]], ["a"], ["b"], 1)
    assert heat_map([[1]], ["a longer name"], ["b"], 1).width > small.width
    assert heat_map([[1]], ["a"], ["a longer name"], 1).width > small.width
    assert heat_map([[1], [1]], ["a", "b"], ["b"], 1).height == small.height + ROW


@pytest.mark.parametrize("points", [[], [(0.5, 0.5)], [(math.nan, 1.0), (0.0, math.inf)]])
def test_scatter_of_nothing_to_speak_of(points):
    assert scatter(points, "x", "y").size == scatter([(0, 0), (1, 1)], "x", "y").size


def test_dots_are_where_they_belong():
    image = scatter([(0.0, 0.0), (1.0, 1.0), (1.0, 0.0)], "x", "y")
    side = image.width
    margin = next(x for x in range(side) if image.getpixel((x, side // 2)) != PAPER)
    far = side - 1 - margin
    dots = {(margin, far): True, (far, margin): True, (far, far): True, (margin, margin): False}
    for (x, y), there in dots.items():
        nearby = {image.getpixel((x + dx, y + dy)) for dx in range(-2, 3) for dy in range(-2, 3)}
        assert (DEEP in nearby) == there
