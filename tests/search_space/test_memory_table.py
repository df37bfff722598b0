"""The memory table, on images small enough for a test."""

import json
import sys

import pytest
import torch

from search_space import memory_table
from search_space.memory_table import ROWS, as_markdown, draw
from search_space.settings import FASTEST, ORDINARY, Schedule

CPU = torch.device("cpu")


def invented() -> dict:
    """What main() measures, with 100, 50, 33.3, ... MiB in the rows' order."""
    return {
        name: {
            row: {"adapting_mib": 100 / place, "testing_mib": 7.25, "seconds_per_step": 1.0}
            for place, row in enumerate(ROWS, start=1)
        }
        for name in memory_table.SHAPES
    }


def test_table_puts_ours_beside_the_published_figures():
    lines = as_markdown(invented(), CPU).splitlines()
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (line.split("|") for line in lines[:8])
    }
    assert rows["gradient for"][2] == "miniImageNet: here, CPU (MiB)"
    assert rows["none"] == ["5168", "4945", "100.0", "1.0", "561", "563", "100.0", "1.0"]
    assert rows["alpha"] == ["352", "", "50.0", "2.0", "53", "", "50.0", "2.0"]
    assert rows["alpha + beta"] == ["320", "", "33.3", "3.0", "36", "", "33.3", "3.0"]
    assert rows["all candidates, exact"] == ["", "", "16.7", "6.0", "", "", "16.7", "6.0"]
    assert lines[-1] == "Testing image by image: 7.2 MiB (miniImageNet), 7.2 MiB (Omniglot)."


def test_chart_is_a_png(tmp_path):
    draw(invented(), tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [path.name for path in tmp_path.iterdir()] == ["memory.png"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder that the command writes, for images of 8x8 and two of its rows."""
    folder = tmp_path_factory.mktemp("memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_table, "SHAPES", {"Omniglot": (1, 8, 8)})
        patch.setattr(memory_table, "ROWS", {row: ROWS[row] for row in ("none", "all candidates, exact")})
        patch.setattr(sys, "argv", ["memory_table.py", "--path", str(folder / "new"), "--device", "cpu"])
        memory_table.main()
    return folder / "new"


def test_command_measures_and_writes_all_three_files(tiny):
    assert sorted(path.name for path in tiny.iterdir()) == ["memory.json", "memory.md", "memory.png"]
    written = json.loads((tiny / "memory.json").read_text())
    assert (written["device"], written["seed"]) == ("cpu", 21)
    measured = written["peaks"]["Omniglot"]
    for row in measured.values():
        assert row["adapting_mib"] == pytest.approx(sum(row["adapting_parts_mib"].values()))
        # C = 28, 4 cells: float32 parameters, and buffers.
        assert 1.75 < row["adapting_parts_mib"]["parameters"] < 1.9
    assert measured["none"]["adapting_mib"] > measured["all candidates, exact"]["adapting_mib"]
    assert f"| {measured['none']['adapting_mib']:.1f} | 1.0 |" in (tiny / "memory.md").read_text()


def test_rows_are_the_savers_one_by_one():
    savers = list(ROWS.values())
    assert savers[0] == {"schedule": Schedule(ORDINARY)}
    assert savers[1] == {"sampleno": 2, "schedule": Schedule(ORDINARY, 5)}
    assert savers[2] == {"sampleno": 2, "beta_sampling": True, "schedule": Schedule(ORDINARY, 5)}
    assert savers[3] == {"sampleno": 2, "beta_sampling": True, "schedule": Schedule(FASTEST, 5)}
    assert savers[-1] == {"schedule": Schedule(FASTEST, 5)}
