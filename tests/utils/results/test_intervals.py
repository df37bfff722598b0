"""The interval of a mean, by hand."""

import math

import pytest

from utils.results.intervals import mean_and_ci95


def test_mean_and_half_width_of_the_95_percent_interval():
    mean, half_width = mean_and_ci95([0.2, 0.4, 0.9])
    assert mean == pytest.approx(0.5)
    deviation = math.sqrt((0.3**2 + 0.1**2 + 0.4**2) / 2)
    assert half_width == pytest.approx(1.96 * deviation / math.sqrt(3))


def test_a_single_value_has_no_interval():
    assert mean_and_ci95([0.25]) == (0.25, None)
