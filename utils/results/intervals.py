"""The mean of measured values and how sure it is."""

import math
import statistics


def mean_and_ci95(values: list[float]) -> tuple[float, float | None]:
    """The mean and the half-width of its 95 % interval, 1.96 s / sqrt(n); None for a single value."""
    if len(values) < 2:
        return values[0], None
    return statistics.fmean(values), 1.96 * statistics.stdev(values) / math.sqrt(len(values))
