"""How right the classes of labelled images are: a share with its interval, and what was taken for what."""

import math
from collections.abc import Sequence

from utils.results.schema import Judged

WIDTH, SHORTEST_NAME = 80, 8
WIDE = 0.1  # of an interval
Z = 1.96  # of a normal distribution, 95 % lie within so many standard deviations


def share_and_interval(right: int, number: int) -> tuple[float, float, float]:
    """The share of ``number`` images that are right, and the ends of its 95 % interval by Wilson's score."""
    share, spread = right / number, Z * Z / number
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return share, max(0.0, centre - half), min(1.0, centre + half)


def judge(labels: Sequence[int], predictions: Sequence[int], ways: int) -> Judged:
    """How right the classes of some images are, one image at least."""
    confusion = confusion_matrix(labels, predictions, ways)
    right = sum(row[label] for label, row in enumerate(confusion))
    accuracy, *interval = share_and_interval(right, len(labels))
    return {
        "labelled_images": len(labels),
        "accuracy": accuracy,
        "accuracy_interval": interval,
        "confusion": confusion,
    }


def judged_text(judged: Judged) -> str:
    """The accuracy with its interval, e.g. "0.940 (95 % interval 0.838 to 0.979; few images: wide)"."""
    low, high = judged["accuracy_interval"]
    interval = f"95 % interval {low:.3f} to {high:.3f}{'; few images: wide' if high - low > WIDE else ''}"
    return f"{judged['accuracy']:.3f} of {judged['labelled_images']} images ({interval})"


def confusion_matrix(labels: Sequence[int], predictions: Sequence[int], ways: int) -> list[list[int]]:
    """How many images of each class, a row, were given each class, a column."""
    matrix = [[0] * ways for _ in range(ways)]
    for label, prediction in zip(labels, predictions, strict=True):
        matrix[label][prediction] += 1
    return matrix


def confusion_text(matrix: list[list[int]], class_names: Sequence[str]) -> str:
    """The matrix as a table of 80 characters at most, its columns numbered as its rows are.

    Of one that is wider, what each class was taken for.
    """
    ways = len(class_names)
    digits = len(str(max(ways, *(count for row in matrix for count in row)))) + 1
    ordinal = len(str(ways))
    room = WIDTH - ordinal - 1 - digits * ways
    if room < SHORTEST_NAME:
        return _confusions_text(matrix, class_names)
    width = min(max(map(len, class_names)), room)
    heading = " " * (ordinal + 1 + width) + "".join(f"{number:{digits}}" for number in range(1, ways + 1))
    lines = [
        f"{number:{ordinal}} {name[:width]:{width}}" + "".join(f"{count or '.':>{digits}}" for count in row)
        for number, (name, row) in enumerate(zip(class_names, matrix, strict=True), start=1)
    ]
    return "\n".join([heading, *lines])


def _confusions_text(matrix: list[list[int]], class_names: Sequence[str]) -> str:
    lines = []
    for label, row in enumerate(matrix):
        taken = [
            (count, name) for other, (count, name) in enumerate(zip(row, class_names, strict=True)) if other != label
        ]
        wrong = ", ".join(f"{name[:20]} {count}" for count, name in sorted(taken, reverse=True) if count)
        text = f"{class_names[label][:30]}: {row[label]} of {sum(row)} right" + (f"; else {wrong}" if wrong else "")
        lines.append(text if len(text) <= WIDTH else text[: WIDTH - 3] + "...")
    return "\n".join(lines)
