"""onnas.py from its command line to its files, on nets so small that a run takes a second."""

import hashlib
import io
import json
import pickle
import re
import shutil
import signal
import zipfile
from pathlib import Path

import pytest
import torch

from onnas import METERED_TASKS
from tests.conftest import contents, fill, rows, wait_for, write_omniglot
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
TASKS = 5


@pytest.fixture(scope="session")
def searched(scripts, trained, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run of onnas.py. Not to be written to."""
    path = tmp_path_factory.mktemp("searched") / "run"
    scripts.onnas(trained / "meta_cell.pt", path, "--eval_epochs", TASKS).succeeded()
    return path


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


def test_one_task_has_no_interval(scripts, trained, tmp_path):
    finished = scripts.onnas(trained / "meta_cell.pt", tmp_path / "run", "--eval_epochs", 1).succeeded()
    assert json.loads((tmp_path / "run/results.json").read_text()).get("accuracy_ci95") is None
    assert len(finished.stdout.splitlines()) == 1


def test_micro_batches_that_do_not_fit_are_fewer_and_said(scripts, trained, tmp_path):
    runs = {}
    for split_num in (3, 50):
        path = tmp_path / str(split_num)
        flags = ("--split_num", split_num, "--eval_epochs", 1)
        runs[split_num] = scripts.onnas(trained / "meta_cell.pt", path, *flags).succeeded()
    assert_same_run(tmp_path / "3", tmp_path / "50")  # six images are three pairs
    assert "--split_num" not in runs[3].stdout + runs[3].stderr
    assert "--split_num 50" in runs[50].stdout + runs[50].stderr


def test_other_ways_than_in_training(scripts, trained, tmp_path):
    scripts.onnas(trained / "meta_cell.pt", tmp_path / "run", "--n", 4, "--eval_epochs", 1).succeeded()
    assert json.loads((tmp_path / "run/results.json").read_text())["ways"] == 4


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
    while True:
        flags = ("--eval_epochs", TASKS, "--resume")
        finished = scripts.onnas(trained / "meta_cell.pt", path, *flags, die_at=deaths + 1)
        if finished.status == 0:
            break
        assert finished.status == -signal.SIGKILL, finished.stderr
        deaths += 1
    assert deaths > 4
    assert_same_run(path, searched)
    first, second = (json.loads((folder / "results.json").read_text()) for folder in (path, searched))
    for key in RESULT_KEYS - PROCESS_KEYS - {"seconds_per_task", "seconds_per_step", "settings"}:
        assert first[key] == second[key]


def test_a_line_cut_short_is_run_again(scripts, trained, searched, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(searched, path)
    content = (path / "tasks.jsonl").read_bytes()
    (path / "tasks.jsonl").write_bytes(content[:-20])
    scripts.onnas(trained / "meta_cell.pt", path, "--eval_epochs", TASKS, "--resume").succeeded()
    assert_same_run(path, searched)


def test_resuming_with_fewer_tasks_loses_none(scripts, trained, searched, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(searched, path)
    scripts.onnas(trained / "meta_cell.pt", path, "--eval_epochs", 2, "--resume").succeeded()
    assert_same_run(path, searched)


def test_interrupted_by_the_keyboard(scripts, trained, searched, tmp_path):
    path = tmp_path / "run"
    flags = scripts.onnas_flags(trained / "meta_cell.pt", path, "--eval_epochs", TASKS)
    pid = scripts.start("onnas.py", *flags)
    wait_for(lambda: (path / "tasks.jsonl").exists() and (path / "tasks.jsonl").read_text().endswith("\n"))
    scripts.send_signal(pid, signal.SIGINT)
    finished = scripts.wait(pid)
    assert finished.status == 130
    assert "Traceback" not in finished.stderr
    assert "--resume" in finished.stderr.splitlines()[-1]
    scripts.run("onnas.py", *flags, "--resume").succeeded()
    assert_same_run(path, searched)


# --- Memory ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep(scripts, tmp_path_factory) -> Path:
    """The untrained meta-cell of a net deep enough for the schedules to differ."""
    path = tmp_path_factory.mktemp("deep") / "run"
    scripts.tfml(path, "--meta_epochs", 0, "--layers", 4, "--reduction_layers", 3, "--init_channels", 8).succeeded()
    return path / "meta_cell.pt"


@pytest.fixture(scope="module")
def smallest_budget(scripts, deep, tmp_path_factory) -> float:
    """What the refusal of a budget that is too small names."""
    path = tmp_path_factory.mktemp("refused") / "run"
    complaint = scripts.onnas(deep, path, "--memory_budget", 1).complaint()
    assert not path.exists()
    assert complaint.startswith("onnas.py: error: --memory_budget 1 MiB is too little")
    return float(re.search(r"the smallest that would do is ([0-9.]+) MiB", complaint).group(1))


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
    found = re.search(rf"{number} MiB adapting \({parts}; {most}\), {number} MiB testing$", line)
    adapting, *of_adapting, held, _, testing = (float(x) if x[0].isdigit() else x for x in found.groups())
    assert 0 < held < adapting
    assert sum(of_adapting) == pytest.approx(adapting, abs=0.05 * (len(KINDS) + 1))
    assert adapting > testing > 0


def test_dry_run_of_an_earlier_run_leaves_it_alone(scripts, trained, searched, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(searched, path)
    before = contents(path)
    for flags in (("--resume",), ("--schedule", "leanest", "--split_num", 2)):
        finished = scripts.onnas(trained / "meta_cell.pt", path, "--dry_run", *flags).succeeded()
        assert ("leanest schedule, --split_num 2:" in finished.stdout) == ("leanest" in flags)
    assert contents(path) == before


def test_dry_run_says_what_a_run_takes(scripts, trained, searched):
    finished = scripts.onnas(trained / "meta_cell.pt", searched, "--dry_run").succeeded()
    results = json.loads((searched / "results.json").read_text())
    predicted = [
        float(re.search(rf"([0-9.]+) MiB {part}", finished.stdout).group(1)) for part in ("adapting", "testing")
    ]
    measured = [results["peak_memory_mib"], results["peak_memory_test_mib"]]
    assert predicted == pytest.approx(measured, rel=0.1, abs=0.05)


@pytest.mark.parametrize("share", [1.0, 1.4, 10])
def test_run_stays_within_its_memory_budget(scripts, deep, smallest_budget, tmp_path, share):
    budget, path = round(share * smallest_budget, 2), tmp_path / "run"
    finished = scripts.onnas(deep, path, "--memory_budget", budget, "--eval_epochs", 1).succeeded()
    results = json.loads((path / "results.json").read_text())
    assert max(results["peak_memory_mib"], results["peak_memory_test_mib"]) <= budget
    schedule, split_num = (results["settings"][name] for name in ("schedule", "split_num"))
    assert f"{schedule} schedule, --split_num {split_num}:" in finished.stdout.splitlines()[0]
    assert results["settings"]["memory_budget"] == budget
    if share == 1.0:
        assert split_num == 2  # of three images each
    if share == 10:
        assert (schedule, split_num) == ("fastest", 1)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--split_num 3", "fastest schedule, --split_num 3:"),
        ("--schedule leanest", "leanest schedule, --split_num 1:"),
        ("--step_by_step 0", "ordinary schedule, --split_num 1:"),
    ],
)
def test_budget_leaves_the_flags_that_are_given(scripts, deep, tmp_path, flags, expected):
    finished = scripts.onnas(deep, tmp_path / "run", "--dry_run", "--memory_budget", 100, *flags.split()).succeeded()
    assert finished.stdout.startswith(expected)


def test_schedules_find_the_same_in_less_and_less_memory(scripts, deep, tmp_path):
    tasks, peaks = [], []
    for flags in (("--step_by_step", 0), ("--step_by_step", 1), ("--step_by_step", 1, "--schedule", "leanest")):
        path = tmp_path / str(len(tasks))
        scripts.onnas(deep, path, *flags).succeeded()
        tasks.append(rows(path / "tasks.jsonl"))
        results = json.loads((path / "results.json").read_text())
        peaks.append(results["peak_memory_mib"])
        assert results["settings"]["schedule"] == ("ordinary", "fastest", "leanest")[len(tasks) - 1]
        assert results["settings"]["split_num"] == 1
    for key in ("accuracy", "accuracy_before", "genotype"):
        assert [row[key] for row in tasks[1]] == [row[key] for row in tasks[0]]
        assert [row[key] for row in tasks[2]] == [row[key] for row in tasks[0]]
    for others in tasks[1:]:
        assert [row["loss"] for row in others] == pytest.approx([row["loss"] for row in tasks[0]], rel=1e-3)
    assert peaks[0] > peaks[1] > peaks[2]


def test_run_with_a_budget_is_resumed(scripts, deep, smallest_budget, tmp_path):
    flags = ("--memory_budget", smallest_budget, "--schedule", "leanest")
    path = tmp_path / "run"
    scripts.onnas(deep, path, *flags, "--eval_epochs", 1).succeeded()
    before = contents(path)
    other = ("--memory_budget", smallest_budget + 0.01)  # it may well choose the same, but was asked for another
    complaint = scripts.onnas(deep, path, *flags, *other, "--eval_epochs", 2, "--resume").complaint()
    assert "--memory_budget" in complaint
    assert contents(path) == before
    scripts.onnas(deep, path, *flags, "--eval_epochs", 2, "--resume").succeeded()
    scripts.onnas(deep, tmp_path / "whole", *flags).succeeded()
    assert_same_run(path, tmp_path / "whole")


# --- What is refused ------------------------------------------------------------------------------------------------

MISTAKES = {  # that the parser cannot know; the others are in tests/search_space/flags
    "--n 1000001": "--n",
    "--k 97": "--k",
    "--sampleno 8": "--sampleno",
    "--init_channels 16": "--init_channels",
    "--layers 3": "--layers",
    "--nodes 2": "--nodes",
    "--reduction_layers 0": "--reduction_layers",
    "--dataset miniimagenet": "--dataset",
    "--dataset omniglot --data_path nowhere": "--data_path",
    "--alpha_lr 1e308": "--alpha_lr",
    "--meta_cell nowhere.pt": "nowhere.pt",
    "--meta_cell .": ".",
    "--meta_cell /dev/null": "/dev/null",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistaken_flag_is_refused_by_name(scripts, trained, tmp_path, mistake):
    complaint = scripts.onnas(trained / "meta_cell.pt", tmp_path / "run", *mistake.split()).complaint()
    assert complaint.startswith("onnas.py: error: ")
    assert MISTAKES[mistake] in complaint
    assert not (tmp_path / "run").exists()


def test_meta_cell_whose_numbers_are_too_large_is_refused(scripts, trained, tmp_path):
    values = torch.load(trained / "meta_cell.pt", weights_only=True)
    for tensor in values["head"].values():
        tensor.fill_(3e38)
    torch.save(values, tmp_path / "large.pt")
    complaint = scripts.onnas(tmp_path / "large.pt", tmp_path / "run").complaint()
    assert str(tmp_path / "large.pt") in complaint
    assert not (tmp_path / "run").exists()


def test_earlier_run_is_not_overwritten(scripts, trained, searched, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(searched, path)
    before = contents(path)
    assert str(path) in scripts.onnas(trained / "meta_cell.pt", path).complaint()
    for flags in (("--seed", 22), ("--search", "full"), ("--k", 3)):
        complaint = scripts.onnas(trained / "meta_cell.pt", path, "--resume", *flags).complaint()
        assert flags[0] in complaint
    assert contents(path) == before


def test_search_is_not_resumed_with_a_meta_cell_that_has_changed(scripts, trained, tmp_path):
    """Of the same name: the training went on."""
    meta_cell, path = tmp_path / "meta_cell.pt", tmp_path / "run"
    shutil.copy(trained / "meta_cell.pt", meta_cell)
    scripts.onnas(meta_cell, path, "--eval_epochs", 1).succeeded()
    before = contents(path)
    values = torch.load(meta_cell, weights_only=True)
    values["head"]["bias"] += 1
    torch.save(values, meta_cell)
    assert "--meta_cell" in scripts.onnas(meta_cell, path, "--eval_epochs", 2, "--resume").complaint()
    assert contents(path) == before
    shutil.copy(trained / "meta_cell.pt", meta_cell)
    scripts.onnas(meta_cell, path, "--eval_epochs", 2, "--resume").succeeded()


def test_search_is_resumed_on_the_same_data_only(scripts, trained, tmp_path):
    """Wherever they lie; data that the run does not use may change."""

    def search(data, *flags):
        flags = ("--dataset", "omniglot", "--data_path", data, *flags)
        return scripts.onnas(trained / "meta_cell.pt", path, *flags)

    path, data = tmp_path / "run", write_omniglot(tmp_path / "data")
    search(data, "--eval_epochs", 1).succeeded()
    before = contents(path)
    for changes in ({"test": 5}, {"alphabet": "Greek"}):
        other = write_omniglot(tmp_path / str(changes), **changes)
        complaint = search(other, "--resume").complaint(after_a_bar=True)
        assert "--resume needs the run's own settings: --data_path (SHA-256)" in complaint
    assert contents(path) == before
    moved = write_omniglot(tmp_path / "moved", train=5)
    search(moved, "--eval_epochs", 2, "--resume").succeeded()
    assert len(rows(path / "tasks.jsonl")) == 2


def test_results_whose_tasks_are_gone_are_not_overwritten(scripts, trained, searched, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(searched, path)
    (path / "tasks.jsonl").unlink()
    before = contents(path)
    assert str(path) in scripts.onnas(trained / "meta_cell.pt", path, "--eval_epochs", 1).complaint()
    assert contents(path) == before


@pytest.mark.parametrize("flag", ["--path", "--data_path", "--meta_cell"])
def test_empty_name_is_refused(scripts, trained, tmp_path, flag):
    """As of a shell variable that was not set."""
    scripts.onnas(trained / "meta_cell.pt", tmp_path / "run", flag, "").complaint()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_training_run_is_not_searched_into(scripts, trained, tmp_path, resume):
    """Its args.json would be lost, and with it the way to resume the training."""
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    before = contents(path)
    assert str(path) in scripts.onnas(path / "meta_cell.pt", path, *resume).complaint()
    assert contents(path) == before


@pytest.mark.parametrize("garbage", ["3\n", "[1]\n", "{}\n", '{"task": "x"}\n', '{"task": 7}\n'])
def test_garbage_in_the_tasks_of_a_run(scripts, trained, searched, tmp_path, garbage):
    """The run goes on before it, or the file is named."""
    path = tmp_path / "run"
    shutil.copytree(searched, path)
    with (path / "tasks.jsonl").open("a") as file:
        file.write(garbage)
    before = contents(path)
    finished = scripts.onnas(trained / "meta_cell.pt", path, "--eval_epochs", TASKS, "--resume")
    if finished.status:
        assert "tasks.jsonl" in finished.complaint()
        assert contents(path) == before
    else:
        assert_same_run(path, searched)


def test_full_disk(scripts, trained, tiny_disk):
    fill(tiny_disk)
    complaint = scripts.onnas(trained / "meta_cell.pt", tiny_disk / "run").complaint()
    assert str(tiny_disk) in complaint
    assert [file for file in contents(tiny_disk) if file != "ballast"] == []


# --- Files that are not meta-cells ----------------------------------------------------------------------------------


class Refuses:
    """Says whether onnas.py refuses a file and names it."""

    def __init__(self, scripts, folder: Path, trained: Path):
        self._scripts, self._folder = scripts, folder
        self.content = (trained / "meta_cell.pt").read_bytes()

    def bytes(self, content: bytes) -> None:
        file = self._folder / "other.pt"
        file.write_bytes(content)
        run = self._folder / "run"
        finished = self._scripts.onnas(file, run, "--eval_epochs", 1)
        assert str(file) in finished.complaint()
        assert not run.exists()

    def value(self, value: object) -> None:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        self.bytes(buffer.getvalue())

    def values(self) -> dict:
        return torch.load(io.BytesIO(self.content), weights_only=True)


@pytest.fixture
def refuses(scripts, trained, tmp_path):
    return Refuses(scripts, tmp_path, trained)


def test_truncated_meta_cell(refuses):
    size = len(refuses.content)
    for length in (0, 4, 64, size // 2, size - 100, size - 22, size - 1):
        refuses.bytes(refuses.content[:length])


def test_a_bit_changed_in_a_meta_cell(refuses):
    """In the first tensor: the file would load, and give other numbers."""
    content = bytearray(refuses.content)
    content[content.index(b"/data/0") + 64 + 7] ^= 1
    refuses.bytes(bytes(content))


class Code:
    def __init__(self, file: Path):
        self._file = file

    def __reduce__(self):
        return Path.touch, (self._file,)


def test_code_in_a_meta_cell_does_not_run(refuses, tmp_path):
    file = tmp_path / "evidence"
    refuses.bytes(pickle.dumps(Code(file)))
    refuses.value(Code(file))
    refuses.value({**refuses.values(), "stem": Code(file)})
    assert not file.exists()


def test_file_of_something_else(refuses, tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "hello")
    refuses.bytes(archive.getvalue())
    refuses.bytes(b"hello\n")
    refuses.bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refuses.bytes(pickle.dumps({"format": 1}))
    refuses.value([1, 2])
    refuses.value({"state_dict": torch.zeros(3)})
    refuses.value(torch.zeros(3))


SETTINGS = {
    "layers": [10**9, 10**30, 0, -1, "2", 2.0, None, True],
    "nodes": [10**6, 0, -1, "one"],
    "init_channels": [10**9, 0, -4, 4.0],
    "in_channels": [10**9, 0, "1"],
    "reduction_layers": [[7], ["1"], 1, None, [1] * 10**6],
    "primitives": [[], ["conv_9x9"], [3], "conv_3x3", None, ["conv_3x3"] * 10**6],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_nonsense_settings(refuses, name):
    for nonsense in SETTINGS[name]:
        values = refuses.values()
        refuses.value({**values, "settings": {**values["settings"], name: nonsense}})


def test_settings_that_are_no_settings(refuses):
    values = refuses.values()
    settings = values["settings"]
    fewer = {name: value for name, value in settings.items() if name != "nodes"}
    for nonsense in (None, [1, 2], {}, fewer, {**settings, "hue": 3}, {1: 2}):
        refuses.value({**values, "settings": nonsense})


@pytest.mark.parametrize("part", ["cells", "stem", "head", "architecture"])
def test_nonsense_tensors(refuses, part):
    values = refuses.values()
    group = values[part][0] if part == "cells" else values[part]
    name, tensor = next(iter(group.items()))
    fewer = {other: value for other, value in group.items() if other != name}
    changed = [torch.cat([tensor, tensor]), tensor.flatten()[:1], [1.0], None]
    nonsense = [{**group, name: value} for value in changed]
    nonsense += [fewer, {**group, "surplus": tensor}, [tensor], None]
    for value in nonsense:
        refuses.value({**values, part: [value] if part == "cells" else value})


def test_nonsense_of_the_whole(refuses):
    values = refuses.values()
    for changes in (
        {"ways": "three"},
        {"ways": -1},
        {"format": 2},
        {"cells": []},
        {"cells": values["cells"] * 3},
        {"cells": None},
    ):
        refuses.value({**values, **changes})
    refuses.value({name: value for name, value in values.items() if name != "head"})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_tensors_that_are_no_numbers(refuses, bad):
    values = refuses.values()
    name = next(iter(values["stem"]))
    refuses.value({**values, "stem": {**values["stem"], name: torch.full_like(values["stem"][name], bad)}})


def test_tensors_of_another_kind(refuses):
    values = refuses.values()
    tensor = values["stem"]["0.weight"]
    for other in (tensor.to(torch.complex64), tensor.to_sparse(), tensor.to("meta"), tensor.to(torch.bool)):
        refuses.value({**values, "stem": {**values["stem"], "0.weight": other}})
