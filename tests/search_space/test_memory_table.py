"""The memory table, on images small enough for a test."""

import json
import sys

import pytest

from search_space import memory_table
from search_space.memory_table import ROWS
from search_space.settings import FASTEST, ORDINARY, Schedule

MEASURED = ("none", "alpha + beta")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command on images of 8x8 and two of its rows; gives the rows that it measured."""
    measure, measured = memory_table.measure, []

    def noted(shape, changes, seed, device):
        measured.append(next(row for row in MEASURED if ROWS[row] is changes))
        return measure(shape, changes, seed, device)

    def run(*flags: str) -> list[str]:
        measured.clear()
        arguments = ["--path", str(tmp_path / "new"), "--device", "cpu", "--dataset", "omniglot", *flags]
        monkeypatch.setattr(sys, "argv", ["memory_table.py", *arguments])
        memory_table.main()
        return list(measured)

    monkeypatch.setattr(memory_table, "EPOCHS", 1)
    monkeypatch.setattr(memory_table, "SHOTS", 3)
    monkeypatch.setattr(memory_table, "SHAPES", {"omniglot": (1, 8, 8)})
    monkeypatch.setattr(memory_table, "ROWS", {row: ROWS[row] for row in MEASURED})
    monkeypatch.setattr(memory_table, "measure", noted)
    return run


def test_command_measures_and_goes_on_where_it_stopped(command, tmp_path, capsys):
    folder = tmp_path / "new"
    assert command() == list(MEASURED)
    assert {"memory.json", "memory.md", "memory.png"} <= {path.name for path in folder.iterdir()}
    written = json.loads((folder / "memory.json").read_text())
    assert (written["device"], written["seed"]) == ("cpu", 21)
    measured = written["peaks"]["Omniglot"]
    for row in measured.values():
        assert row["adapting_mib"] == pytest.approx(sum(row["adapting_parts_mib"].values()))
        # C = 28, 4 cells: float32 parameters, and buffers.
        assert 1.75 < row["adapting_parts_mib"]["parameters"] < 1.9
    assert measured["none"]["adapting_mib"] > measured["alpha + beta"]["adapting_mib"]
    assert (
        f"| Omniglot | none | 561 | 563 | {measured['none']['adapting_mib']:.1f} | 1.0 |"
        in (folder / "memory.md").read_text()
    )

    first = measured.pop("none")
    (folder / "memory.json").write_text(json.dumps(written))
    assert command() == ["none"]  # the other is not measured twice
    again = json.loads((folder / "memory.json").read_text())["peaks"]["Omniglot"]
    assert again["none"]["adapting_mib"] == first["adapting_mib"]
    assert command("--seed", "22") == list(MEASURED)  # of another seed nothing is kept


def test_rows_are_the_savers_one_by_one():
    savers = list(ROWS.values())
    assert savers[0] == {"schedule": Schedule(ORDINARY)}
    assert savers[1] == {"sampleno": 2, "schedule": Schedule(ORDINARY, 5)}
    assert savers[2] == {"sampleno": 2, "beta_sampling": True, "schedule": Schedule(ORDINARY, 5)}
    assert savers[3] == {"sampleno": 2, "beta_sampling": True, "schedule": Schedule(FASTEST, 5)}
    assert savers[-1] == {"schedule": Schedule(FASTEST, 5)}
