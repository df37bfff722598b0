"""The table that quickstart.sh ends with."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.utils.hand_written_runs import few_shot_run, tfml_run
from utils.errors import InputError
from utils.quickstart_table import table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folders(tmp_path) -> dict[str, Path]:
    """What quickstart.sh leaves, in small."""
    few_shot_run(tmp_path / "trained", "onnas", [0.625, 0.8], dataset="synthetic", peak_memory_mib=9.96)
    few_shot_run(tmp_path / "untrained", "onnas", [0.45, 0.55], dataset="synthetic", accuracy_ci95=0.04)
    tfml_run(tmp_path / "tfml", 2)
    return {name: tmp_path / name for name in ("trained", "untrained", "tfml")}


def test_the_numbers_are_those_of_the_files(folders):
    lines = table(**folders).splitlines()
    assert lines[0] == "2 synthetic tasks, 5-way 5-shot, 15 queries a class"
    values = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line}
    assert values["untrained"] == "16.2% 50.0% +- 4.0% 2.5"
    assert values["trained"] == "16.2% 71.2% 2.5"
    assert values["supernet"] == "23,237 parameters"
    assert values["storage"].endswith("4.00 times less")
    assert values["meta-training"] == "5 s for 2 meta-epochs"


def test_it_fits_a_terminal_and_says_where_to_look(monkeypatch, folders):
    runs = folders["tfml"].parent / "runs"
    (runs / "quickstart").mkdir(parents=True)
    places = [Path("runs/quickstart") / name for name in ("search_trained", "search_untrained", "trained")]
    for place, folder in zip(places, ("trained", "untrained", "tfml"), strict=True):
        folders[folder].rename(runs.parent / place)
    monkeypatch.chdir(runs.parent)
    lines = table(*places).splitlines()
    assert max(map(len, lines)) <= 80
    assert "pictures       runs/quickstart/search_trained/report.html" in lines
    assert "step by step   tensorboard --logdir runs/quickstart" in lines


@pytest.mark.parametrize(("name", "file"), [("untrained", "results.json"), ("tfml", "metrics.jsonl")])
@pytest.mark.parametrize("content", ["{\n", '{"other": 1}\n', "7\n"])
def test_a_damaged_file_is_named(folders, name, file, content):
    path = folders[name] / file
    path.write_text(content)
    with pytest.raises(InputError, match=file):
        table(**folders)


def test_a_missing_file_is_one_sentence_and_status_2(folders):
    (folders["trained"] / "results.json").unlink()
    flags = [text for name, folder in folders.items() for text in (f"--{name}", str(folder))]
    command = [sys.executable, "-m", "utils.quickstart_table", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(folders["trained"] / "results.json") in done.stderr
