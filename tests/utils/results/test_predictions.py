"""predictions.csv: its layout is that of the command for devices."""

import csv

import pytest

from utils import classify
from utils.errors import InputError
from utils.results.predictions import Prediction, write_predictions

NAMES = ["cat", 'a "dog", or so', "Käse"]
SAID = [
    ("a/one.png", [0.25, 0.7, 0.05]),
    ("two, too.png", [1 / 3, 1 / 3, 1 / 3]),
    ("notes.txt", None),
    ("ünit.png", [1.0, 1e-9, 0.0]),
]


def test_layout_is_that_of_the_command_for_devices(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, NAMES, [Prediction(*said) for said in SAID])
    assert path.read_bytes().decode() == classify.csv_text(NAMES, [classify.Prediction(*said) for said in SAID])
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "class", *NAMES]
    assert [row[:2] for row in rows] == [
        ["a/one.png", NAMES[1]],
        ["two, too.png", NAMES[0]],
        ["notes.txt", "unread"],
        ["ünit.png", NAMES[0]],
    ]
    assert rows[0][2:] == ["0.250000", "0.700000", "0.050000"]
    assert rows[2][2:] == ["", "", ""]


def test_file_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"^cannot write .*predictions\.csv: No such file or directory\.$"):
        write_predictions(tmp_path / "absent" / "predictions.csv", NAMES, [])
