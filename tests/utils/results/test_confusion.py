"""Shares with their intervals, and confusion matrices."""

import pytest

from utils.results.confusion import confusion_matrix, confusion_text, judge, judged_text, share_and_interval


@pytest.mark.parametrize(
    ("right", "number", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, Wilson's score without correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_is_wilsons(right, number, low, high):
    assert share_and_interval(right, number) == pytest.approx((right / number, low, high), abs=5e-5)
    opposite = share_and_interval(number - right, number)
    assert opposite == pytest.approx((1 - right / number, 1 - high, 1 - low), abs=5e-5)


def test_matrix_counts_classes_by_row():
    assert confusion_matrix([0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 2, 2], 3) == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_text_is_a_table():
    text = confusion_text([[13, 2, 0], [0, 15, 0], [1, 0, 4]], ["cat", "dog", "a bird"])
    assert text.splitlines() == [
        "          1  2  3",
        "1 cat    13  2  .",
        "2 dog     . 15  .",
        "3 a bird  1  .  4",
    ]


@pytest.mark.parametrize(("ways", "count"), [(2, 1), (5, 12345678), (20, 15), (24, 999), (60, 7), (200, 1)])
def test_text_fits_80_columns(ways, count):
    matrix = [[count * (row == column or column == 0) for column in range(ways)] for row in range(ways)]
    names = [f"a class of a name as long as number {number} has" for number in range(ways)]
    lines = confusion_text(matrix, names).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) in (ways, ways + 1)
    assert all(str(count) in line for line in lines[-ways:])


def test_text_of_many_classes_says_what_each_was_taken_for():
    matrix = [[0] * 40 for _ in range(40)]
    matrix[3][3], matrix[3][7], matrix[3][9] = 5, 2, 3
    lines = confusion_text(matrix, [f"class {number}" for number in range(40)]).splitlines()
    assert lines[3] == "class 3: 5 of 10 right; else class 9 3, class 7 2"
    assert lines[4] == "class 4: 0 of 0 right"


def test_judged_images():
    judged = judge([0, 0, 1, 1], [0, 1, 1, 1], 2)
    assert (judged["labelled_images"], judged["accuracy"], judged["confusion"]) == (4, 0.75, [[1, 1], [0, 2]])
    text = judged_text(judged)
    assert text.startswith("0.750 of 4 images (95 % interval 0.301 to 0.954; few images: wide")  # Wilson's, by hand
    assert "wide" not in judged_text(judge([0] * 900 + [1] * 100, [0] * 1000, 2))
