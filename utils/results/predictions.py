"""predictions.csv: what was said of each file, in the layout of utils/classify.py."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.run.files import replacing

UNREAD = "unread"  # in the place of a class


class Prediction(NamedTuple):
    """probabilities: of each class; None: the file could not be read."""

    file: str
    probabilities: Sequence[float] | None

    @property
    def label(self) -> int | None:
        """The likeliest class; None: the file could not be read."""
        if self.probabilities is None:
            return None
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)


def write_predictions(path: Path, class_names: Sequence[str], predictions: Sequence[Prediction]) -> None:
    """Writes a line a file, whole or not at all: its name, its class, and the probability of each class.

    Raises:
        WriteError: the file cannot be written. What was there still is.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "class", *class_names])
        for prediction in predictions:
            if prediction.probabilities is None:
                table.writerow([prediction.file, UNREAD, *("" for _ in class_names)])
                continue
            shares = (f"{value:.6f}" for value in prediction.probabilities)
            table.writerow([prediction.file, class_names[prediction.label], *shares])
