"""onnas.py from its command line to its files, on nets so small that a run takes a second."""

import hashlib
import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from onnas import METERED_TASKS
from tests.conftest import contents, rows, write_omniglot
from utils.memory import KINDS

TIMES = ("seconds", "seconds_per_step")
# What results.json needs of every task, so that a run that was resumed can still say it, is in tasks.jsonl as well.
FOUND_KEYS = {
    *("found_accuracy", "found_parameters", "found_macs", "found_storage_mib", "found_peak_memory_mib"),
    *("macs", "agreement", "candidate_entropy"),
}
TASK_KEYS = {
    *FOUND_KEYS,
    *("task", "accuracy", "accuracy_before", "loss", "genotype", "predictions"),
    *("peak_memory_mib", "peak_memory_breakdown_mib", "peak_memory_test_mib"),
}
PROCESS_KEYS = {"process_memory_mib", "process_memory_anonymous_mib"}
RESULT_KEYS = {
    *FOUND_KEYS,
    "found_accuracy_ci95",
    *("task", "dataset", "data", "device", "network", "search", "ways", "shots", "queries"),
    *("tasks", "accuracy", "accuracy_ci95"),
    *("accuracy_before", "seconds_per_task", "seconds_per_step"),
    *("peak_memory_mib", "peak_memory_breakdown_mib", "peak_memory_test_mib"),
    *("supernet_parameters", "supernet_storage_mib", "meta_cell_storage_mib", "genotype", "settings"),
    *PROCESS_KEYS,
}
TASKS = 3


@pytest.fixture(scope="session")
def searched(scripts, trained, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run of onnas.py, with its report. Not to be written to."""
    path = tmp_path_factory.mktemp("searched") / "run"
    scripts.onnas(trained / "meta_cell.pt", path, "--eval_epochs", TASKS, "--report", 1).succeeded()
    return path


@pytest.fixture
def copied(searched, tmp_path) -> Path:
    """A copy of that run's folder."""
    return shutil.copytree(searched, tmp_path / "run")


def assert_same_run(path, expected) -> None:
    """The same tasks but for times."""
    first, second = (rows(folder / "tasks.jsonl", without=TIMES) for folder in (path, expected))
    assert first == second


# --- Files ----------------------------------------------------------------------------------------------------------


def test_files_of_a_run(searched, trained):
    files = {name for name in contents(searched) if not name.startswith("tb/")}
    assert files == {"args.json", "tasks.jsonl", "examples.jsonl", "results.json", "report.html"}
    args = json.loads((searched / "args.json").read_text())
    assert (args["meta_cell"], args["eval_epochs"]) == (str(trained / "meta_cell.pt"), TASKS)
    assert args["script"] == "onnas.py"
    assert args["meta_cell (SHA-256)"] == hashlib.sha256((trained / "meta_cell.pt").read_bytes()).hexdigest()
    assert "resume" not in args


def test_tasks(searched):
    tasks = rows(searched / "tasks.jsonl")
    assert [row["task"] for row in tasks] == list(range(TASKS))
    for row in tasks:
        assert set(row) == {*TASK_KEYS, *TIMES}
        assert 0 <= row["accuracy"] <= 1
        assert 0 <= row["accuracy_before"] <= 1
        assert set(row["genotype"]) >= {"normal", "reduce"}
        assert tuple(row["peak_memory_breakdown_mib"]) == KINDS
        assert sum(row["peak_memory_breakdown_mib"].values()) == pytest.approx(row["peak_memory_mib"], rel=1e-9)
        classes = [label for label in range(3) for _ in range(4)]
        right = sum(given == label for given, label in zip(row["predictions"], classes, strict=True))
        assert row["accuracy"] == pytest.approx(right / 12)
    assert len({row["accuracy_before"] for row in tasks}) > 1


def test_first_tasks_are_kept_as_examples_and_all_is_reported(searched):
    tasks, examples = rows(searched / "tasks.jsonl"), rows(searched / "examples.jsonl")
    assert len(examples) == 2
    for row, example in zip(tasks, examples, strict=False):
        assert len(set(example["classes"])) == 3
        assert [len(shown["support"]) for shown in example["shown"]] == [2, 2, 2]
        predicted = [query["predicted"] for shown in example["shown"] for query in shown["queries"]]
        assert predicted == row["predictions"]
    page = (searched / "report.html").read_text(encoding="utf-8")
    results = json.loads((searched / "results.json").read_text())
    assert f'value="{results["accuracy"]}"' in page
    assert "nfinished" not in page


def test_results_sum_up_the_tasks(searched):
    tasks, results = rows(searched / "tasks.jsonl"), json.loads((searched / "results.json").read_text())
    assert set(results) == RESULT_KEYS
    expected = {"task": "fewshot", "dataset": "synthetic", "search": "onnas", "ways": 3, "shots": 2, "queries": 4}
    assert {key: results[key] for key in expected} == expected
    assert results["data"] == {"split": "test", "classes": 1_000_000, "images": 100_000_000}
    assert (results["network"]["init_channels"], results["network"]["layers"]) == (4, 2)
    assert results["tasks"] == TASKS
    for key in ("accuracy", "accuracy_before", "found_accuracy", "agreement"):
        assert results[key] == pytest.approx(sum(row[key] for row in tasks) / TASKS)
    assert results["peak_memory_mib"] == max(row["peak_memory_mib"] for row in tasks)
    heaviest = max(tasks, key=lambda row: row["peak_memory_mib"])
    assert results["peak_memory_breakdown_mib"] == heaviest["peak_memory_breakdown_mib"]
    assert results["genotype"] in [row["genotype"] for row in tasks]
    assert results["settings"] == json.loads((searched / "args.json").read_text())
    assert 0.4 < results["meta_cell_storage_mib"] / results["supernet_storage_mib"] < 0.6  # two cells


def test_the_first_tasks_are_measured_and_the_others_timed(scripts, trained, tmp_path):
    path = tmp_path / "run"
    scripts.onnas(trained / "meta_cell.pt", path, "--eval_epochs", METERED_TASKS + 2).succeeded()
    tasks, results = rows(path / "tasks.jsonl"), json.loads((path / "results.json").read_text())
    for row in tasks:
        measured = [key in row for key in RESULT_KEYS if key.startswith("peak_memory")]
        assert measured == [row["task"] < METERED_TASKS] * 3
    assert results["peak_memory_test_mib"] == max(row["peak_memory_test_mib"] for row in tasks[:METERED_TASKS])
    for key, of_task in (("seconds_per_task", "seconds"), ("seconds_per_step", "seconds_per_step")):
        assert results[key] == pytest.approx((tasks[-2][of_task] + tasks[-1][of_task]) / 2)


def test_one_task_of_other_ways_than_in_training_has_no_interval(scripts, trained, tmp_path):
    finished = scripts.onnas(trained / "meta_cell.pt", tmp_path / "run", "--n", 4, "--eval_epochs", 1).succeeded()
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert (results["ways"], results.get("accuracy_ci95")) == (4, None)
    assert "the head of 4 starts at zero" in finished.stdout


def test_micro_batches_that_do_not_fit_are_fewer_and_said(scripts, trained, tmp_path):
    runs = {}
    for split_num in (3, 50):
        path = tmp_path / str(split_num)
        flags = ("--split_num", split_num, "--eval_epochs", 1)
        runs[split_num] = scripts.onnas(trained / "meta_cell.pt", path, *flags).succeeded()
    assert_same_run(tmp_path / "3", tmp_path / "50")  # six images are three pairs
    assert "--split_num" not in runs[3].stdout + runs[3].stderr
    assert "--split_num 50" in runs[50].stdout + runs[50].stderr


# --- The same tasks -------------------------------------------------------------------------------------------------


def test_every_search_sees_the_same_tasks(scripts, trained, searched, tmp_path):
    before = [row["accuracy_before"] for row in rows(searched / "tasks.jsonl")]
    losses = [[row["loss"] for row in rows(searched / "tasks.jsonl")]]
    for flags in (("--search", "full"), ("--sampleno", 1, "--alpha_expect", 0), ("--beta_sampling", 0)):
        path = tmp_path / str(len(losses))
        scripts.onnas(trained / "meta_cell.pt", path, "--eval_epochs", TASKS, *flags).succeeded()
        assert [row["accuracy_before"] for row in rows(path / "tasks.jsonl")] == before
        losses.append([row["loss"] for row in rows(path / "tasks.jsonl")])
    # One node has one pair, so that --beta_sampling, the last, has nothing to choose.
    assert losses[3] == losses[0]
    assert losses[0] != losses[1] != losses[2] != losses[0]


def test_a_worker_changes_nothing(scripts, trained, searched, tmp_path):
    flags = ("--eval_epochs", TASKS, "--workers", 1)
    scripts.onnas(trained / "meta_cell.pt", tmp_path / "run", *flags).succeeded()
    assert_same_run(tmp_path / "run", searched)


def test_killed_at_every_change_of_a_file_and_resumed(scripts, trained, searched, tmp_path):
    path, deaths = tmp_path / "run", 0
    flags = (trained / "meta_cell.pt", path, "--eval_epochs", TASKS, "--resume")
    while (finished := scripts.onnas(*flags, die_at=deaths + 1)).status:
        assert finished.status == -signal.SIGKILL, finished.stderr
        deaths += 1
    assert deaths > 4
    assert_same_run(path, searched)
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (path, searched))
    for key in RESULT_KEYS - PROCESS_KEYS - {"seconds_per_task", "seconds_per_step", "settings"}:
        assert first[key] == second[key]


def test_resuming_with_fewer_tasks_loses_none(scripts, trained, searched, copied):
    scripts.onnas(trained / "meta_cell.pt", copied, "--eval_epochs", 2, "--resume").succeeded()
    assert_same_run(copied, searched)


# --- Memory ---------------------------------------------------------------------------------------------------------


def test_dry_run_says_the_memory_and_does_nothing(scripts, trained, tmp_path):
    flags = ("--dry_run", "--dataset", "omniglot", "--data_path", tmp_path / "nowhere")
    finished = scripts.onnas(trained / "meta_cell.pt", tmp_path / "run", *flags).succeeded()
    assert list(tmp_path.iterdir()) == []
    (line,) = finished.stdout.splitlines()
    assert finished.stderr == ""
    assert line.startswith("fastest schedule, --split_num 1: ")
    number = r"([0-9]+\.[0-9])"
    parts = ", ".join(f"{kind} {number}" for kind in KINDS)
    most = rf"the most, {number}, held by (models/[a-z_]+\.py):[0-9]+"
    found = re.search(
        rf"{number} MiB adapting \({parts}; {most}\), {number} MiB testing; of the process ([0-9]+) MiB$", line
    )
    adapting, *of_adapting, held, _, testing, process = (float(x) if x[0].isdigit() else x for x in found.groups())
    assert 0 < held < adapting
    assert sum(of_adapting) == pytest.approx(adapting, abs=0.05 * (len(KINDS) + 1))
    assert process > adapting > testing > 0


def test_dry_run_of_an_earlier_run_says_what_it_took_and_leaves_it_alone(scripts, trained, copied):
    before, results = contents(copied), json.loads((copied / "results.json").read_text())
    finished = scripts.onnas(trained / "meta_cell.pt", copied, "--dry_run", "--resume").succeeded()
    predicted = [
        float(re.search(rf"([0-9.]+) MiB {part}", finished.stdout).group(1)) for part in ("adapting", "testing")
    ]
    measured = [results["peak_memory_mib"], results["peak_memory_test_mib"]]
    assert predicted == pytest.approx(measured, rel=0.1, abs=0.05)
    assert contents(copied) == before


def test_run_stays_within_its_memory_budget_and_is_resumed_with_the_same(scripts, tmp_path):
    """The smallest budget that will do, which the refusal of a smaller one names."""
    deep, path = tmp_path / "deep", tmp_path / "run"
    network = ("--layers", 2, "--init_channels", 16)
    scripts.tfml(deep, "--meta_epochs", 0, *network).succeeded()

    def search(*flags: object):
        return scripts.onnas(deep / "meta_cell.pt", path, "--schedule", "leanest", *flags)

    complaint = search("--memory_budget", 1).complaint()
    assert not path.exists()
    assert complaint.startswith("onnas.py: error: --memory_budget 1 MiB is too little")
    budget = float(re.search(r"the smallest that would do is ([0-9.]+) MiB", complaint).group(1))
    finished = search("--memory_budget", budget, "--eval_epochs", 1).succeeded()
    results = json.loads((path / "results.json").read_text())
    assert max(results["peak_memory_mib"], results["peak_memory_test_mib"]) <= budget
    assert results["settings"]["memory_budget"] == budget
    assert results["settings"]["split_num"] == 2  # of three images each
    assert finished.stdout.startswith("leanest schedule, --split_num 2:")
    before = contents(path)
    # Another may well choose the same, but was asked for another.
    assert "--memory_budget" in search("--memory_budget", budget + 0.01, "--resume").complaint()
    assert contents(path) == before
    search("--memory_budget", budget, "--eval_epochs", 2, "--resume").succeeded()
    whole = ("--schedule", "leanest", "--memory_budget", budget, "--eval_epochs", 2)
    scripts.onnas(deep / "meta_cell.pt", tmp_path / "whole", *whole).succeeded()
    assert_same_run(path, tmp_path / "whole")


# --- What is refused ------------------------------------------------------------------------------------------------

MISTAKES = {  # that the parser cannot know, one of each kind; the others are in tests/search_space/flags
    "--n 1000001": "--n",
    "--sampleno 8": "--sampleno",
    "--init_channels 16": "--init_channels",
    "--dataset miniimagenet": "--dataset",
    "--dataset omniglot --data_path nowhere": "--data_path",
    "--alpha_lr 1e308": "--alpha_lr",
    "--meta_cell /dev/null": "/dev/null",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistaken_flag_is_refused_by_name(scripts, trained, tmp_path, mistake):
    complaint = scripts.onnas(trained / "meta_cell.pt", tmp_path / "run", *mistake.split()).complaint()
    assert complaint.startswith("onnas.py: error: ")
    assert MISTAKES[mistake] in complaint
    assert not (tmp_path / "run").exists()


def test_earlier_run_is_not_overwritten(scripts, trained, copied):
    cell, before = trained / "meta_cell.pt", contents(copied)
    assert str(copied) in scripts.onnas(cell, copied).complaint()
    for flags in (("--seed", 22), ("--search", "full")):
        assert flags[0] in scripts.onnas(cell, copied, "--resume", *flags).complaint()
    assert contents(copied) == before


def test_search_is_not_resumed_with_a_meta_cell_that_has_changed(scripts, trained, copied, tmp_path):
    """As that of a training that went on."""
    values = torch.load(trained / "meta_cell.pt", weights_only=True)
    values["head"]["bias"] += 1
    torch.save(values, tmp_path / "meta_cell.pt")
    before = contents(copied)
    assert "--meta_cell" in scripts.onnas(tmp_path / "meta_cell.pt", copied, "--resume").complaint()
    assert contents(copied) == before


def test_search_is_resumed_on_the_same_data_only(scripts, trained, tmp_path):
    """Wherever they lie; data that the run does not use may change."""

    def search(data, *flags):
        flags = ("--dataset", "omniglot", "--data_path", data, *flags)
        return scripts.onnas(trained / "meta_cell.pt", path, *flags)

    path, data = tmp_path / "run", write_omniglot(tmp_path / "data")
    search(data, "--eval_epochs", 1).succeeded()
    before = contents(path)
    complaint = search(write_omniglot(tmp_path / "other", alphabet="Greek"), "--resume").complaint(after_a_bar=True)
    assert "--resume needs the run's own settings: --data_path (SHA-256)" in complaint
    assert contents(path) == before
    moved = write_omniglot(tmp_path / "moved", train=5)
    search(moved, "--eval_epochs", 2, "--resume").succeeded()
    assert len(rows(path / "tasks.jsonl")) == 2


def test_results_whose_tasks_are_gone_are_not_overwritten(scripts, trained, copied):
    (copied / "tasks.jsonl").unlink()
    before = contents(copied)
    assert str(copied) in scripts.onnas(trained / "meta_cell.pt", copied, "--eval_epochs", 1).complaint()
    assert contents(copied) == before


def test_damaged_tasks_of_a_run_are_named_and_kept(scripts, trained, copied):
    with (copied / "tasks.jsonl").open("a") as file:
        file.write('{"task": "x"}\n')
    before = contents(copied)
    assert "tasks.jsonl" in scripts.onnas(trained / "meta_cell.pt", copied, "--resume").complaint()
    assert contents(copied) == before


def test_file_that_is_no_meta_cell_is_refused_by_name(scripts, trained, tmp_path):
    """Of the many kinds in tests/search_space/test_search_network.py one that is cut short."""
    content = (trained / "meta_cell.pt").read_bytes()
    (tmp_path / "other.pt").write_bytes(content[:-1])
    assert str(tmp_path / "other.pt") in scripts.onnas(tmp_path / "other.pt", tmp_path / "run").complaint()
    assert not (tmp_path / "run").exists()
