"""Learning curves: what is drawn, in the units of the axes."""

import numpy as np

from utils.pictures.curves import Curve, curve_figure


def test_a_line_with_its_band_and_dots_with_theirs():
    line = Curve("mean", [(1, 0.2), (11, 0.45), (21, 0.9)], [0.1, 0.05, 0.2])
    dots = Curve("test", [(21, 0.05)], [0.1], dots=True)
    figure = curve_figure([line, dots], "tasks", fractions=True)
    (axes,) = figure.axes
    drawn, points = axes.lines
    assert drawn.get_xydata().tolist() == [[1, 0.2], [11, 0.45], [21, 0.9]]
    assert points.get_xydata().tolist() == [[21, 0.05]]
    band, bars = axes.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    assert (round(low, 9), high) == (0.1, 1)  # never more than 100 %
    assert np.allclose(bars.get_segments()[0], [[21, 0], [21, 0.15]])  # never less than 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean", "test"]
    figure.canvas.draw()
    assert all(text.get_text().endswith(" %") for text in axes.get_yticklabels())


def test_the_axis_of_fractions_ends_at_its_ends():
    for value in (0.0, 1.0):
        (axes,) = curve_figure([Curve("all the same", [(1, value), (2, value)])], "tasks", fractions=True).axes
        low, high = axes.get_ylim()
        assert 0 <= low <= value <= high <= 1.01


def test_what_is_counted_has_whole_ticks():
    (axes,) = curve_figure([Curve("a", [(1, 5.0), (3, 700.0)])], "tasks", fractions=False).axes
    assert all(tick == int(tick) for tick in axes.get_xticks())
