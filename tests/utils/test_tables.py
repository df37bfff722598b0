"""The tables: hand-made folders of runs against tables worked out by hand."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import onnas
import tfml
from search_space.methods import METHODS, method_flags
from tests.conftest import ROOT
from tests.utils.hand_written_runs import (
    CELL,
    OMNIGLOT,
    OTHER_CELL,
    few_shot_run,
    full_run,
    tfml_run,
    unfinish,
    write,
)
from utils import compare
from utils.errors import InputError
from utils.results.run_files import find_runs
from utils.results.schema import FEW_SHOT, FULL, TFML
from utils.run.cli import run
from utils.tables import __main__ as command
from utils.tables import few_shot, full_task, memory, storage
from utils.tables.data_size import few_shot_data, full_task_data
from utils.tables.layout import markdown

STEPWISE = {"step_by_step": 1, "schedule": "fastest", "split_num": 5}


def text_of(module, folder: Path) -> str:
    """The Markdown of a table."""
    rows = module.rows(find_runs([folder]))
    return markdown(memory.columns(rows) if module is memory else module.COLUMNS, rows)


def cells_of(text: str, *having: str) -> list[str]:
    """The one row of a table of Markdown that holds these cells, without its bars."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    (row,) = [row for row in rows if set(having) <= set(row)]
    return row


def few_shot_row(folder: Path, *having: str) -> dict[str, str]:
    """A row of Omniglot's by its column's heading."""
    text = text_of(few_shot, folder)
    return dict(zip(cells_of(text, "data set"), cells_of(text, "Omniglot", *having), strict=True))


# --- Few-shot accuracy ----------------------------------------------------------------------------------------------


def test_few_shot_means_intervals_and_paired_differences(tmp_path):
    few_shot_run(tmp_path / "full", "full", [0.9, 0.8, 1.0], process_memory_mib=301.6)
    few_shot_run(tmp_path / "onnas", "onnas", [0.7, 0.8, 0.9], STEPWISE, peak_memory_mib=1.25)
    row = few_shot_row(tmp_path, "5-way 5-shot", "full")
    # sd of 0.9, 0.8, 1.0 is 0.1, and 1.96 * 0.1 / sqrt(3) = 0.1132
    assert row == {
        "data set": "Omniglot",
        "task": "5-way 5-shot",
        "queries a class": "15",
        "method": "full",
        "back-propagation": "all at once, split 1",
        "tasks": "3",
        "accuracy (%)": "90.0 +- 11.3",
        "difference to full (%)": "",
        "found network (%)": "",
        "peak memory, adapting (MiB)": "12.3",
        "process (MiB)": "302",
        "s a task": "2.50",
        "s a step": "0.125",
        "device": "CPU",
        "test images": "complete",
        "adaptation": "10 epochs, batches of 10, seed 21",
        "meta-cell": "abababab",
    }
    row = few_shot_row(tmp_path, "5-way 5-shot", "onnas")
    # differences -0.2, 0.0, -0.1: mean -0.1, sd 0.1
    assert row["accuracy (%)"] == "80.0 +- 11.3"
    assert row["difference to full (%)"] == "-10.0 +- 11.3"
    assert (row["back-propagation"], row["peak memory, adapting (MiB)"]) == ("step by step (fastest), split 5", "1.2")


def test_a_single_task_has_no_interval(tmp_path):
    few_shot_run(tmp_path / "full", "full", [0.9])
    assert few_shot_row(tmp_path, "5-way 5-shot", "full")["accuracy (%)"] == "90.0"


def test_differences_are_on_the_tasks_that_both_ran(tmp_path):
    few_shot_run(tmp_path / "full", "full", [0.9, 0.8])
    few_shot_run(tmp_path / "onnas", "onnas", [0.8, 0.8, 0.1], STEPWISE)
    row = few_shot_row(tmp_path, "5-way 5-shot", "onnas")
    # -0.1 and 0: sd 0.0707, 1.96 * 0.0707 / sqrt(2) = 0.098
    assert row["difference to full (%)"] == "-5.0 +- 9.8 (on 2 tasks)"


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        ({"seed": 22}, {}),
        ({"meta_cell (SHA-256)": OTHER_CELL}, {}),
        ({"test_task_train_steps": 5}, {}),
        ({"transductive": 0}, {}),
        ({"use_vinyals_split": 0}, {}),
        ({"data_path (SHA-256)": "ab"}, {}),
        ({}, {"queries": 1}),
        ({}, {"data": {"split": "test", "classes": 100, "images": 2000}}),
    ],
)
def test_runs_of_other_tasks_have_no_difference(tmp_path, flags, changes):
    few_shot_run(tmp_path / "full", "full", [0.9, 0.8])
    few_shot_run(tmp_path / "onnas", "onnas", [0.8, 0.8], flags, **changes)
    assert few_shot_row(tmp_path, "5-way 5-shot", "onnas")["difference to full (%)"] == ""


def test_the_table_knows_which_methods_settle_how_alpha_relaxes():
    settled = {name: set(method_flags(name)) for name in METHODS}
    assert {name for name, flags in settled.items() if flags} == set(few_shot.OWN_RELAXATION)
    assert all(settled[name] == set(few_shot.RELAXATION) for name in few_shot.OWN_RELAXATION)


@pytest.mark.parametrize(
    ("search", "difference"), [("darts", "-5.0 +- 9.8"), ("pcdarts", "-5.0 +- 9.8"), ("onnas", "")]
)
def test_how_alpha_relaxes_may_be_the_methods_own(tmp_path, search, difference):
    full = {"normalizer": "softmax", "normalizer_temp_anneal_mode": "linear", "alpha_prune_threshold": 0.01}
    few_shot_run(tmp_path / "full", "full", [0.9, 0.8], full)
    own = {"normalizer": "softmax", "normalizer_temp_anneal_mode": "none", "alpha_prune_threshold": 0.0}
    few_shot_run(tmp_path / "other", search, [0.8, 0.8], own)
    assert few_shot_row(tmp_path, "5-way 5-shot", search)["difference to full (%)"] == difference


def test_the_plainest_full_run_is_the_reference(tmp_path):
    few_shot_run(tmp_path / "a", "full", [0.8, 0.8], STEPWISE)
    few_shot_run(tmp_path / "b", "full", [0.9, 0.9])
    text = text_of(few_shot, tmp_path)
    assert "-10.0 +- 0.0" in cells_of(text, "5-way 5-shot", "full", "step by step (fastest), split 5")
    assert cells_of(text, "5-way 5-shot", "full", "all at once, split 1")[7] == ""


def test_what_was_not_run_says_so_beside_the_published_figures(tmp_path):
    few_shot_run(tmp_path / "run", "full", [0.9, 0.8], ways=20, shots=5)
    table = few_shot.rows(find_runs([tmp_path]))
    states = [(row["dataset"], row["ways"], row["shots"], row["method"], row["state"]) for row in table]
    expected = []
    tasks = [("omniglot", *task) for task in ((5, 1), (5, 5), (20, 1), (20, 5))]
    for task in [*tasks, ("miniimagenet", 5, 1), ("miniimagenet", 5, 5)]:
        expected.append((*task, "Reptile (published)", "published"))
        expected.append((*task, "full", "run" if task == ("omniglot", 20, 5) else "not run"))
        expected.append((*task, "onnas", "not run"))
    assert states == expected
    text = text_of(few_shot, tmp_path)
    nothing = cells_of(text, "miniImageNet", "5-way 1-shot", "onnas")
    assert nothing[6:12] == ["not run", "", "", "not run", "not run", "not run"]
    published = [
        cells_of(text, task, "Reptile (published)", "Omniglot")[6]
        for task in ("5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot")
    ]
    assert published == ["97.7", "99.5", "89.4", "97.1"]
    assert cells_of(text, "miniImageNet", "5-way 5-shot", "Reptile (published)")[6] == "66.0"


def test_other_data_sets_and_variants_of_a_method_have_rows_of_their_own(tmp_path):
    few_shot_run(tmp_path / "a", "onnas", [0.5, 0.7], {"sampleno": 3, "beta_sampling": 0}, dataset="synthetic", ways=3)
    few_shot_run(tmp_path / "b", "onnas", [0.5, 0.7], {"alpha_expect": 0}, dataset="synthetic", ways=3)
    text = text_of(few_shot, tmp_path)
    assert "60.0 +- 19.6" in cells_of(text, "synthetic", "3-way 5-shot", "onnas, 3 candidates, all pairs")
    assert cells_of(text, "synthetic", "3-way 5-shot", "onnas, chosen uniformly")
    assert "not run" in cells_of(text, "synthetic", "3-way 5-shot", "full")


# --- Subsets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "data", "said"),
    [
        ("omniglot", OMNIGLOT, "complete"),
        ("miniimagenet", {"split": "test", "classes": 20, "images": 12_000}, "complete"),
        (
            "miniimagenet",
            {"split": "test", "classes": 20, "images": 2000},
            "subset: 20 classes of 100 images (published: 20 of 600)",
        ),
        (
            "omniglot",
            {"split": "test", "classes": 100, "images": 1990},
            "subset: 100 classes, 1,990 images (published: 423 of 20)",
        ),
        ("synthetic", {"split": "test", "classes": 1_000_000, "images": 10**8}, "1,000,000 classes, drawn"),
    ],
)
def test_a_subset_of_few_shot_classes_says_so(dataset, data, said):
    assert few_shot_data(SimpleNamespace(dataset=dataset, data=data, settings={"use_vinyals_split": 1})) == said


def test_omniglots_other_split_has_other_numbers():
    result = SimpleNamespace(dataset="omniglot", data={"split": "test", "classes": 659, "images": 659 * 20})
    result.settings = {"use_vinyals_split": 0}
    assert few_shot_data(result) == "complete"
    result.settings = {"use_vinyals_split": 1}
    assert few_shot_data(result).startswith("other than published")


@pytest.mark.parametrize(
    ("dataset", "sizes", "said"),
    [
        ("cifar10", (10, 50_000, 10_000), "complete"),
        (
            "cifar10",
            (10, 10_000, 2000),
            "subset: 10 classes, 10,000 + 2,000 images (published: 50,000 + 10,000)",
        ),
        ("imagefolder", (10, 10_000, 2000), "10 classes, 10,000 + 2,000 images"),
    ],
)
def test_a_subset_of_a_full_data_set_says_so(dataset, sizes, said):
    data = dict(zip(("classes", "train_images", "test_images"), sizes, strict=True))
    assert full_task_data(SimpleNamespace(dataset=dataset, data=data)) == said


# --- Full task ------------------------------------------------------------------------------------------------------


def test_runs_that_differ_by_the_seed_alone_are_one_row(tmp_path):
    for seed, accuracy in ((1, 0.5), (2, 0.6), (3, 0.7)):
        full_run(tmp_path / str(seed), "full", accuracy, seed)
    row = cells_of(text_of(full_task, tmp_path), "CIFAR-10", "full")
    # sd of 0.5, 0.6, 0.7 is 0.1
    assert row == [
        *("CIFAR-10", "complete", "full", "all at once, split 1", "4, 5", "1, 2, 3"),
        *("103.0", "", "2:00:00", "60.0 +- 10.0", "2,000", "5,000,000", "CPU"),
    ]
    assert cells_of(text_of(full_task, tmp_path), "CIFAR-10", "onnas")[6:12] == ["not run"] * 6


def test_what_is_the_few_shot_tasks_keeps_no_seeds_apart(tmp_path):
    full_run(tmp_path / "a", "full", 0.5, 1)
    full_run(tmp_path / "b", "full", 0.6, 2, {"transductive": None, "test_task_train_steps": None})
    assert cells_of(text_of(full_task, tmp_path), "CIFAR-10", "full")[5] == "1, 2"


def test_other_settings_or_the_same_seed_again_are_rows_of_their_own(tmp_path):
    full_run(tmp_path / "a", "full", 0.5, 1)
    full_run(tmp_path / "b", "full", 0.6, 1)
    full_run(tmp_path / "c", "full", 0.7, 2, {"epochs": 9}, search_epochs=9)
    accuracies = [row["derived_accuracy"] for row in full_task.rows(find_runs([tmp_path])) if row["state"] == "run"]
    assert accuracies == [0.5, 0.6, 0.7]


def test_a_given_genotype_was_not_searched(tmp_path):
    full_run(tmp_path / "a", "full", 0.5, 1, {"genotype": "a.json"}, dataset="imagefolder")
    row = cells_of(text_of(full_task, tmp_path), "genotype given, no search")
    assert row[3:10] == ["", "-, 5", "1", "", "", "", "50.0"]


# --- Memory ---------------------------------------------------------------------------------------------------------


def memory_table(folder: Path, device: str = "cpu", **peaks: float) -> Path:
    """A memory table of Omniglot alone."""
    ways = {way.replace("_", " "): {"adapting_mib": peak, "testing_mib": 0.5} for way, peak in peaks.items()}
    return write(folder, memory={"device": device, "seed": 21, "peaks": {"Omniglot": ways}})


def test_memory_stands_beside_both_published_figures(tmp_path):
    memory_table(tmp_path / "memory", none=200, alpha=40)
    text = text_of(memory, tmp_path)
    heads = ["data set", "gradient for", "paper, GPU (MB)", "its code, CPU (MiB)", "here, CPU (MiB)", "none / this"]
    assert cells_of(text, "data set") == heads
    assert cells_of(text, "Omniglot", "none") == ["Omniglot", "none", "561", "563", "200.0", "1.0"]
    assert cells_of(text, "Omniglot", "alpha") == ["Omniglot", "alpha", "53", "not published", "40.0", "5.0"]
    assert cells_of(text, "Omniglot", "alpha + beta") == [
        *("Omniglot", "alpha + beta", "36", "not published", "not run", "")
    ]
    assert cells_of(text, "miniImageNet", "none") == ["miniImageNet", "none", "5168", "4945", "not run", ""]


def test_two_tables_of_memory_have_columns_of_their_own(tmp_path):
    memory_table(tmp_path / "cpu", none=200)
    memory_table(tmp_path / "gpu", "NVIDIA H100", none=300)
    assert cells_of(text_of(memory, tmp_path), "data set")[4::2] == ["here, CPU (MiB)", "here, NVIDIA H100 (MiB)"]
    memory_table(tmp_path / "cpu 2", none=201)
    heads = cells_of(text_of(memory, tmp_path), "data set")[4::2]
    assert f"here, CPU, {tmp_path / 'cpu 2'} (MiB)" in heads


# --- Storage --------------------------------------------------------------------------------------------------------


def test_storage_of_a_meta_cell_and_what_it_was_trained_on(tmp_path):
    tfml_run(tmp_path / "tfml", 400)
    few_shot_run(tmp_path / "search", "onnas", [0.5, 0.6])  # from that meta-cell
    subset = {"split": "train", "classes": 64, "images": 6400}
    changes = {"dataset": "miniimagenet", "data": subset, "supernet_storage_mib": 3.0, "meta_cell_storage_mib": 1.0}
    tfml_run(tmp_path / "zero", 0, OTHER_CELL, **changes)
    text = text_of(storage, tmp_path)
    assert cells_of(text, "abababab")[:6] == ["4", "28", "3", "2.000", "0.500", "4.00"]
    assert cells_of(text, "abababab")[7] == "Omniglot, complete, 400 meta-epochs"
    trained_on = "miniImageNet, subset: 64 classes of 100 images (published: 64 of 600), untrained"
    assert cells_of(text, "cdcdcdcd")[5:] == ["3.00", "cdcdcdcd", trained_on]
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 2 + 1 + 2  # with the published row


def test_storage_that_was_not_measured_says_so(tmp_path):
    memory_table(tmp_path, none=1)
    assert cells_of(text_of(storage, tmp_path), "not run")[3:6] == ["not run"] * 3


# --- Unfinished and damaged runs ------------------------------------------------------------------------------------


def test_an_unfinished_run_is_no_result(tmp_path):
    unfinish(few_shot_run(tmp_path / "few shot", "full", [0.9, 0.8, 0.7]), tasks=2)
    unfinish(full_run(tmp_path / "full task", "onnas", 0.5, 1), search=1, derived=0)
    unfinish(tfml_run(tmp_path / "tfml", 400), metrics=7)
    runs = find_runs([tmp_path])
    assert {run.path.name: run.progress for run in runs.unfinished(FEW_SHOT, FULL, TFML)} == {
        "few shot": "2 of 3 tasks",
        "full task": "1 of 4 epochs of search, 0 of 5 epochs of training",
        "tfml": "7 of 400 meta-epochs",
    }
    assert few_shot_row(tmp_path, "5-way 5-shot", "full")["accuracy (%)"] == "unfinished: 2 of 3 tasks"
    said = "unfinished: 1 of 4 epochs of search, 0 of 5 epochs of training"
    assert cells_of(text_of(full_task, tmp_path), "CIFAR-10", "onnas")[9] == said
    assert storage.rows(runs)[1:] == [{"state": "not run"}]


def test_a_finished_run_that_goes_on_is_unfinished_until_its_new_end(tmp_path):
    folder = few_shot_run(tmp_path / "few shot", "full", [0.9, 0.8])
    settings = json.loads((folder / "args.json").read_text())
    write(folder, args={**settings, "eval_epochs": 9})
    runs = find_runs([tmp_path])
    assert [run.progress for run in runs.unfinished(FEW_SHOT)] == ["2 of 9 tasks"]
    assert runs.finished(FEW_SHOT) == []


def test_tasks_that_are_not_those_of_the_results_are_damage(tmp_path):
    folder = few_shot_run(tmp_path, "full", [0.9, 0.8])
    (folder / "tasks.jsonl").write_text("")
    with pytest.raises(InputError, match=r"tasks\.jsonl is damaged \(it has 0 tasks"):
        find_runs([tmp_path])


@pytest.mark.parametrize("content", ["", "{}", '{"device": "cpu", "peaks": {"Omniglot": {"none": 5}}}'])
def test_a_damaged_table_of_memory_is_named(tmp_path, content):
    (tmp_path / "memory.json").write_text(content)
    with pytest.raises(InputError, match=r"memory\.json"):
        find_runs([tmp_path])


def test_a_folder_without_runs_is_refused(tmp_path):
    write(tmp_path / "other", args={"script": "another.py"})
    with pytest.raises(InputError, match="holds no run"):
        find_runs([tmp_path])
    with pytest.raises(InputError, match="holds no run"):
        find_runs([tmp_path / "absent"])


def test_a_run_that_is_named_twice_counts_once(tmp_path):
    folder = few_shot_run(tmp_path / "run", "full", [0.9, 0.8])
    assert len(find_runs([tmp_path, folder]).runs) == 1


# --- The command ----------------------------------------------------------------------------------------------------


def call(monkeypatch, capsys, *flags: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["tables", *map(str, flags)])
    status = 0
    try:
        run(command.main, "utils.tables", "")
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def test_the_command_writes_everything_and_prints_what_a_terminal_has_room_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few_shot_run(Path("runs/full"), "full", [0.9, 0.8])
    unfinish(few_shot_run(Path("runs/onnas"), "onnas", [0.9, 0.8], STEPWISE), tasks=1)
    memory_table(Path("runs/memory"), none=200)
    status, stdout, stderr = call(monkeypatch, capsys, "runs", "--path", "new/tables")
    assert (status, stderr) == (0, "")
    assert sorted(path.name for path in Path("new/tables").iterdir()) == [
        *("few_shot.png", "memory.png", "tables.json", "tables.md")
    ]
    assert max(map(len, stdout.splitlines())) <= 105
    assert "new/tables/tables.md" in stdout
    assert "Omniglot      5-way 5-shot   full                 2      85.0 +- 9.8" in stdout
    written = Path("new/tables/tables.md").read_text()
    headings = [line for line in written.splitlines() if line.startswith("## ")]
    assert headings == ["## Memory", "## Few-shot accuracy", "## Full task", "## Storage", "## Unfinished runs"]
    assert "| `runs/onnas` | 1 of 2 tasks |" in written
    for module in command.TABLES.values():
        assert f"```bash\n{module.COMMANDS}\n```" in written
    tables = json.loads(Path("new/tables/tables.json").read_text())
    (ran,) = [row for row in tables["few_shot"] if row["state"] == "run"]
    assert (ran["accuracy"], ran["meta_cell"]) == (pytest.approx(0.85), CELL)
    assert tables["unfinished"] == [{"run": "runs/onnas", "progress": "1 of 2 tasks"}]
    for picture in ("memory.png", "few_shot.png"):
        assert (Path("new/tables") / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_damaged_run_is_one_sentence_and_status_2(tmp_path, monkeypatch, capsys):
    folder = few_shot_run(tmp_path / "run", "full", [0.9, 0.8])
    (folder / "results.json").write_text("{")
    status, stdout, stderr = call(monkeypatch, capsys, tmp_path, "--path", tmp_path / "tables")
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert str(folder / "results.json") in stderr
    assert not (tmp_path / "tables").exists()


def test_every_command_that_fills_a_table_is_one_that_its_script_takes(tmp_path, monkeypatch):
    """Runs each table's commands with scripts in the place of Python and tfml.sh that only note their flags."""
    called = tmp_path / "called"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(f'#!/bin/bash\nprintf "%q " "$@" >> {called}\necho >> {called}\n')
    (tmp_path / "tfml.sh").write_text(f'#!/bin/bash\nprintf "%q " tfml.py "$@" >> {called}\necho >> {called}\n')
    for script in (tmp_path / "bin/python", tmp_path / "tfml.sh"):
        script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    for module in command.TABLES.values():
        subprocess.run(["bash", "-euc", module.COMMANDS], cwd=tmp_path, env=environment, check=True)
    parsers = {"onnas.py": onnas.parse_args, "tfml.py": tfml.parse_args, "utils.compare": compare.parse_args}
    calls = [[word for word in shlex.split(line) if word != "-m"] for line in called.read_text().splitlines()]
    assert {script for script, *_ in calls} == {*parsers, "search_space.memory_table"}
    for script, *flags in calls:
        if script not in parsers:
            assert (ROOT / "search_space/memory_table.py").exists()
            continue
        monkeypatch.setattr(sys, "argv", [script, *flags])
        args = parsers[script]()
        if script == "utils.compare":
            args, passed_on = args
            own = [["--task", args.task, "--search", method, *args.flags[method]] for method in args.methods]
            cell = ["--meta_cell", args.meta_cell] if args.meta_cell else []
            for method in own:
                monkeypatch.setattr(sys, "argv", ["onnas.py", *cell, *passed_on, *method])
                onnas.parse_args()
    tasks = [flags for script, *flags in calls if script == "utils.compare" and "--n" in flags]
    asked = {(f[f.index("--dataset") + 1], *(int(f[f.index(flag) + 1]) for flag in ("--n", "--k"))) for f in tasks}
    assert asked == {
        (row["dataset"], row["ways"], row["shots"])
        for row in few_shot.rows(find_runs([memory_table(tmp_path / "memory", none=1)]))
    }
