"""tfml.py from its command line to its files, on nets so small that a run takes a second."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

import tfml
from search_space.evaluation import Start
from search_space.flags.shared import TaskFlags
from search_space.flags.tfml import MetaTestFlags, TfmlFlags
from search_space.settings import SearchSettings
from tests.conftest import ROOT, Scripts, contents, fill, rows, wait_for, write_omniglot
from utils.results.schema import TaskRow
from utils.run.ranks import Ranks

TIMES = ("seconds", "tasks_per_second")
FIGURES = {
    "accuracy": 0.5,
    "accuracy_before": 0.2,
    "seconds": 1.0,
    "seconds_per_step": 1.0,
    "genotype": {},
    "predictions": [],
}
TRAINING_KEYS = {"meta_epoch", "train_loss", "train_accuracy", *TIMES}
META_TEST_KEYS = {"test_loss", "test_accuracy", "test_accuracy_ci95", "peak_memory_mib", "peak_memory_breakdown_mib"}


def tensors(path, name="meta_cell.pt") -> dict[str, torch.Tensor]:
    """Every tensor of a meta-cell, by the names of its part and its own."""
    values = torch.load(path / name, weights_only=True)
    values = values.get("state", values)  # of a checkpoint
    parts = {f"cell {number}": cell for number, cell in enumerate(values["cells"])}
    parts |= {part: values[part] for part in ("stem", "head", "architecture")}
    return {f"{part}/{name}": tensor for part, group in parts.items() for name, tensor in group.items()}


def assert_same_run(path, expected) -> None:
    """The same meta-cell bit for bit, and the same metrics but for times."""
    for name in ("meta_cell.pt", "checkpoint.pt"):
        actual, wanted = tensors(path, name), tensors(expected, name)
        assert actual.keys() == wanted.keys()
        assert [name for name in wanted if not torch.equal(actual[name], wanted[name])] == []
    metrics = [rows(folder / "metrics.jsonl", without=TIMES) for folder in (path, expected)]
    assert metrics[0] == metrics[1]


# --- Files ----------------------------------------------------------------------------------------------------------


def test_files_of_a_run(trained):
    files = {name for name in contents(trained) if not name.startswith("tb/")}
    assert files == {"args.json", "checkpoint.pt", "meta_cell.pt", "metrics.jsonl", "results.json", "report.html"}
    args = json.loads((trained / "args.json").read_text())
    assert (args["init_channels"], args["meta_epochs"], args["path"]) == (4, 4, str(trained))
    assert args["script"] == "tfml.py"
    assert "resume" not in args
    assert torch.load(trained / "checkpoint.pt", weights_only=True)["epochs"] == 4


def test_results_say_what_the_meta_cell_is(trained):
    results = json.loads((trained / "results.json").read_text())
    assert (results["task"], results["dataset"], results["meta_epochs"]) == ("tfml", "synthetic", 4)
    assert results["data"] == {"split": "train", "classes": 1_000_000, "images": 100_000_000}
    assert results["network"]["init_channels"] == 4
    assert results["meta_cell (SHA-256)"] == hashlib.sha256((trained / "meta_cell.pt").read_bytes()).hexdigest()
    saved = torch.load(trained / "meta_cell.pt", weights_only=True)
    parts = (*saved["cells"], saved["stem"], saved["head"], saved["architecture"])
    assert results["meta_cell_storage_mib"] * 2**20 == 4 * sum(
        tensor.numel() for part in parts for tensor in part.values()
    )
    assert results["settings"] == json.loads((trained / "args.json").read_text())


def test_metrics_hold_the_keys_that_apply(trained):
    metrics = rows(trained / "metrics.jsonl")
    assert [row["meta_epoch"] for row in metrics] == [0, 1, 2, 3]
    for row in metrics:
        tested = row["meta_epoch"] in (1, 3)  # --eval_freq 2
        assert set(row) == (TRAINING_KEYS | META_TEST_KEYS if tested else TRAINING_KEYS)
        assert all(0 <= value <= 1 for key, value in row.items() if key.endswith("_accuracy"))
        assert row["tasks_per_second"] == pytest.approx(2 / row["seconds"])


def test_last_meta_epoch_is_tested_whatever_the_frequency(scripts, tmp_path):
    scripts.tfml(tmp_path / "run", "--meta_epochs", 2, "--eval_freq", 100, "--eval_epochs", 1).succeeded()
    first, last = rows(tmp_path / "run/metrics.jsonl")
    assert set(first) == TRAINING_KEYS
    assert set(last) == TRAINING_KEYS | META_TEST_KEYS - {"test_accuracy_ci95"}  # one task has no interval


def test_no_meta_epochs_writes_the_untrained_meta_cell(scripts, trained, tmp_path):
    for name in ("run", "again"):
        scripts.tfml(tmp_path / name, "--meta_epochs", 0).succeeded()
    assert_same_run(tmp_path / "run", tmp_path / "again")
    assert rows(tmp_path / "run/metrics.jsonl") == []
    untrained, after = tensors(tmp_path / "run"), tensors(trained)
    assert {name: tensor.shape for name, tensor in untrained.items()} == {n: t.shape for n, t in after.items()}
    scripts.onnas(tmp_path / "run/meta_cell.pt", tmp_path / "search", "--eval_epochs", 1).succeeded()


def test_starts_from_a_meta_cell(scripts, trained, tmp_path):
    """With another number of ways all but the head is what it was, and the head is zero."""
    given, flags = ("--meta_cell", trained / "meta_cell.pt"), ("--meta_epochs", 0)
    scripts.tfml(tmp_path / "same", *given, *flags).succeeded()
    scripts.tfml(tmp_path / "more", *given, *flags, "--n", 4).succeeded()
    start, same, more = tensors(trained), tensors(tmp_path / "same"), tensors(tmp_path / "more")
    for name, tensor in start.items():
        assert torch.equal(same[name], tensor), name
        if name.startswith("head/"):
            assert more[name].shape[0] == 4 != tensor.shape[0]
            assert not more[name].any()
        else:
            assert torch.equal(more[name], tensor), name
    digest = hashlib.sha256((trained / "meta_cell.pt").read_bytes()).hexdigest()
    assert json.loads((tmp_path / "more/args.json").read_text())["meta_cell (SHA-256)"] == digest
    # A trained start is not trained from scratch, and a stopped run goes on, wherever the file lies by then.
    scripts.tfml(tmp_path / "whole", *given, "--meta_epochs", 2).succeeded()
    scripts.tfml(tmp_path / "stopped", *given, "--meta_epochs", 1).succeeded()
    moved = shutil.copy(trained / "meta_cell.pt", tmp_path / "moved.pt")
    scripts.tfml(tmp_path / "stopped", "--meta_cell", moved, "--meta_epochs", 2, "--resume").succeeded()
    resumed, whole = tensors(tmp_path / "stopped"), tensors(tmp_path / "whole")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert any(not torch.equal(start[name], tensor) for name, tensor in whole.items())


def test_a_start_that_does_not_fit_is_refused(scripts, trained, tmp_path):
    given = ("--meta_cell", trained / "meta_cell.pt", "--meta_epochs", 0)
    assert "init_channels 4, not 6" in scripts.tfml(tmp_path / "run", *given, "--init_channels", 6).complaint()
    assert "no_such.pt" in scripts.tfml(tmp_path / "run", "--meta_cell", tmp_path / "no_such.pt").complaint()
    scripts.tfml(tmp_path / "separate", "--cells", "separate", "--meta_epochs", 0).succeeded()
    separate = tmp_path / "separate/meta_cell.pt"
    assert "--cells separate" in scripts.tfml(tmp_path / "run", "--meta_cell", separate).complaint()
    scripts.tfml(tmp_path / "own", "--meta_cell", separate, "--cells", "separate", "--meta_epochs", 0).succeeded()
    scripts.tfml(tmp_path / "goes_on", *given).succeeded()
    scripts.tfml(tmp_path / "untrained", "--meta_epochs", 0).succeeded()
    other = ("--meta_cell", tmp_path / "untrained/meta_cell.pt", "--meta_epochs", 0, "--resume")
    assert "SHA-256" in scripts.tfml(tmp_path / "goes_on", *other).complaint()
    assert not (tmp_path / "run").exists()


def test_real_process_says_little_and_gives_the_same(trained, tmp_path):
    command = [sys.executable, "tfml.py", *map(str, Scripts.tfml_flags(tmp_path / "run"))]
    # The last bit depends on the number of threads; the other runs have one.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert_same_run(tmp_path / "run", trained)
    assert len(finished.stdout.splitlines()) == 3  # two meta-tests, and where the meta-cell is
    assert "arning" not in finished.stdout + finished.stderr


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of what torch.compile imports
def test_compiled_tasks_give_the_same(compiled_passes, tmp_path, monkeypatch):
    """Two tasks side by side; the last meta-epoch is measured, and so not compiled."""
    flags = ("--layers", 1, "--reduction_layers", "--meta_epochs", 2, "--eval_freq", 9, "--eval_epochs", 1)
    for compiled in (0, 1):
        command = Scripts.tfml_flags(tmp_path / f"{compiled}", *flags, "--compile", compiled)
        monkeypatch.setattr(sys, "argv", ["tfml.py", *map(str, command)])
        tfml.main()
        assert compiled_passes == [(2, 6, 1, 28, 28), (2, 3, 1, 28, 28)] * compiled
    plain, compiled = tensors(tmp_path / "0"), tensors(tmp_path / "1")
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-5, atol=1e-5)


# --- The algorithm --------------------------------------------------------------------------------------------------


def test_warm_up_leaves_alpha_and_beta_alone(scripts, tmp_path):
    path, states = tmp_path / "run", []
    for meta_epochs in (0, 1, 2, 3):  # --warm_up_epochs 2
        run = scripts.tfml(path, "--meta_epochs", meta_epochs, "--eval_freq", 9, "--resume").succeeded()
        assert ("adapt weights only: --warm_up_epochs is 2." in run.stdout) == (meta_epochs in (1, 2))
        states.append(tensors(path))
    names = [name for name in states[0] if name.startswith("architecture/")]
    assert len(names) >= 4  # alpha and beta, of normal and reduction cells
    for name in names:
        assert torch.equal(states[0][name], states[1][name])
        assert torch.equal(states[1][name], states[2][name])
        # One node has one pair: the weight of a lone pair is 1 whatever its beta.
        if states[0][name].numel() > 1:
            assert not torch.equal(states[2][name], states[3][name]), name
    for before, after in pairwise(states):
        cell = [name for name in before if name.startswith("cell 0/")]
        assert any(not torch.equal(before[name], after[name]) for name in cell)


def test_separate_cells_are_kept_and_searched(scripts, tmp_path):
    sizes = {}
    for cells in ("meta", "separate"):
        flags = ("--cells", cells, "--layers", 4, "--reduction_layers", 1, 3, "--init_channels", 16)
        path = tmp_path / cells
        scripts.tfml(path, *flags, "--meta_epochs", 1, "--warm_up_epochs", 0, "--eval_epochs", 1).succeeded()
        values = torch.load(path / "meta_cell.pt", weights_only=True)
        assert len(values["cells"]) == {"meta": 1, "separate": 4}[cells]
        sizes[cells] = sum(tensor.numel() for tensor in tensors(path).values())
        scripts.onnas(path / "meta_cell.pt", tmp_path / f"{cells} search", "--eval_epochs", 1).succeeded()
    assert 3 < sizes["separate"] / sizes["meta"] < 4
    results = json.loads((tmp_path / "separate search/results.json").read_text())
    assert results["meta_cell_storage_mib"] == results["supernet_storage_mib"]


def test_seed_and_weightings_matter(scripts, tmp_path):
    flags = [(), ("--task_weighting", "mean"), ("--cell_weighting", "softmax"), ("--seed", 22)]
    states = []
    for number, pair in enumerate(flags):
        path = tmp_path / str(number)
        scripts.tfml(path, "--meta_epochs", 1, "--eval_epochs", 1, *pair).succeeded()
        states.append(tensors(path))
    for number, state in enumerate(states):
        for other in states[:number]:
            assert any(not torch.equal(state[name], other[name]) for name in state)


# --- Bit for bit ----------------------------------------------------------------------------------------------------


def test_meta_lr_decays_to_zero(scripts, tmp_path):
    """Both folds are linear in the step: with half of it the second meta-epoch goes half as far."""
    for epochs, flags in ((1, ()), (2, ()), (2, ("--meta_lr_decay", "linear"))):
        path = tmp_path / "".join((str(epochs), *flags))
        scripts.tfml(path, "--meta_epochs", epochs, "--eval_freq", 100, "--eval_epochs", 1, *flags).succeeded()
    once, twice = tensors(tmp_path / "1"), tensors(tmp_path / "2")
    decayed = tensors(tmp_path / "2--meta_lr_decaylinear")
    assert any(not torch.equal(twice[name], once[name]) for name in once)
    for name, tensor in decayed.items():
        torch.testing.assert_close(tensor, (once[name] + twice[name]) / 2)
    flags = ("--meta_epochs", 3, "--meta_lr_decay", "linear", "--resume")
    assert "--meta_epochs" in scripts.tfml(tmp_path / "2--meta_lr_decaylinear", *flags).complaint()


def test_a_worker_changes_nothing(scripts, tmp_path, trained):
    scripts.tfml(tmp_path / "run", "--workers", 1).succeeded()
    assert_same_run(tmp_path / "run", trained)


def test_killed_at_changes_of_its_files_and_resumed(scripts, tmp_path, trained):
    path, deaths = tmp_path / "run", 0
    # Each life gets two changes further than the one before it, so that it dies at other places.
    while True:
        finished = scripts.tfml(path, "--resume", die_at=2 * deaths + 1)
        if finished.status == 0:
            break
        assert finished.status == -signal.SIGKILL, finished.stderr
        deaths += 1
        for name in ("checkpoint.pt", "meta_cell.pt"):
            if (path / name).exists():
                tensors(path, name)
    assert deaths > 8
    assert_same_run(path, trained)
    assert not list(path.glob("*.tmp"))


def test_killed_at_random_moments_and_resumed(scripts, tmp_path, trained):
    path, draws = tmp_path / "run", random.Random(1)
    for longest in (0.1, 1, 1):
        pid = scripts.start("tfml.py", *scripts.tfml_flags(path, "--resume"))
        time.sleep(draws.uniform(0, longest))
        scripts.send_signal(pid, signal.SIGKILL)
        scripts.wait(pid)
        if (path / "checkpoint.pt").exists():
            tensors(path, "checkpoint.pt")
    scripts.tfml(path, "--resume").succeeded()
    assert_same_run(path, trained)


def test_lengthened_across_the_end_of_warm_up(scripts, tmp_path, trained):
    path = tmp_path / "run"
    for meta_epochs in (2, 4):  # --warm_up_epochs 2
        scripts.tfml(path, "--meta_epochs", meta_epochs, "--resume").succeeded()
    assert_same_run(path, trained)


def test_resuming_a_finished_run_changes_nothing(scripts, tmp_path, trained):
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    scripts.tfml(path, "--resume").succeeded()
    assert_same_run(path, trained)


def test_interrupted_by_the_keyboard(scripts, tmp_path, trained):
    path = tmp_path / "run"
    pid = scripts.start("tfml.py", *scripts.tfml_flags(path))
    wait_for(lambda: (path / "metrics.jsonl").exists() and rows(path / "metrics.jsonl"))
    scripts.send_signal(pid, signal.SIGINT)
    finished = scripts.wait(pid)
    assert finished.status == 130
    assert "Traceback" not in finished.stderr
    assert "--resume" in finished.stderr.splitlines()[-1]
    tensors(path, "checkpoint.pt")
    scripts.tfml(path, "--resume").succeeded()
    assert_same_run(path, trained)


def test_tasks_at_once_changes_nothing_but_rounding(scripts, tmp_path):
    """Three tasks in groups of two and one, and one by one; after one meta-epoch rounding is not amplified yet."""
    for number in (1, 2):
        flags = ("--meta_batch_size", 3, "--meta_epochs", 1, "--warm_up_epochs", 0, "--tasks_at_once", number)
        scripts.tfml(tmp_path / str(number), *flags).succeeded()
    one, two = (tensors(tmp_path / str(number)) for number in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-3)


# --- What is refused ------------------------------------------------------------------------------------------------

MISTAKES = {  # that the parser cannot know; the others are in tests/search_space/flags
    "--n 1000001": "--n",
    "--k 97": "--k",  # and 4 queries: a class has 100 images
    "--n_train 100": "--n_train",
    "--init_channels 7": "--init_channels",
    "--reduction_layers 9": "--reduction_layers",
    "--reduction_layers 1 1": "--reduction_layers",
    "--dataset omniglot --data_path nowhere": "--data_path",
    "--w_lr 1e308": "--w_lr",
    "surplus": "surplus",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistaken_flag_is_refused_by_name(scripts, tmp_path, mistake):
    complaint = scripts.tfml(tmp_path / "run", *mistake.split()).complaint()
    assert complaint.startswith("tfml.py: error: ")
    assert MISTAKES[mistake] in complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_gpu_is_said(scripts, tmp_path):
    assert "--device cuda" in scripts.tfml(tmp_path / "run", "--device", "cuda").complaint()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/run", "/dev/null"])
def test_path_that_cannot_be_a_folder(scripts, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    path = tmp_path / place
    assert str(path) in scripts.tfml(path).complaint()
    assert (tmp_path / "file").read_text() == "mine"


def test_read_only_place(scripts, tiny_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    assert str(tiny_disk) in scripts.tfml(tiny_disk).complaint()
    assert str(tiny_disk) in scripts.tfml(tiny_disk / "run").complaint()


@pytest.mark.parametrize("left", [None, "checkpoint.pt", "meta_cell.pt"])
def test_earlier_run_is_not_overwritten(scripts, tmp_path, trained, left):
    """Not even where only one of its two files of tensors is left."""
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    for name in ("checkpoint.pt", "meta_cell.pt"):
        if left not in (None, name):
            (path / name).unlink()
    before = contents(path)
    complaint = scripts.tfml(path).complaint()
    assert str(path) in complaint
    assert "--resume" in complaint
    assert contents(path) == before


@pytest.mark.parametrize("missing", ["checkpoint.pt", "args.json"])
def test_rest_of_a_run_is_not_resumed(scripts, tmp_path, trained, missing):
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    (path / missing).unlink()
    before = contents(path)
    assert missing in scripts.tfml(path, "--resume").complaint()
    assert contents(path) == before


def test_training_is_resumed_on_the_same_data_only(scripts, tmp_path):
    """Those of the training and of the meta-tests, wherever they lie."""

    def train(data, *flags):
        return scripts.tfml(path, "--dataset", "omniglot", "--data_path", data, *flags)

    path, data = tmp_path / "run", write_omniglot(tmp_path / "data")
    train(data, "--meta_epochs", 1).succeeded()
    before = contents(path)
    for changes in ({"train": 5}, {"val": 5}):
        other = write_omniglot(tmp_path / str(changes), **changes)
        complaint = train(other, "--resume").complaint(after_a_bar=True)
        assert "--resume needs the run's own settings: --data_path (SHA-256)" in complaint
    assert contents(path) == before
    moved = write_omniglot(tmp_path / "moved", test=5)
    train(moved, "--meta_epochs", 2, "--resume").succeeded()
    assert len(rows(path / "metrics.jsonl")) == 2


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_folder_of_a_search_is_not_trained_into(scripts, tmp_path, trained, resume):
    path = tmp_path / "run"
    scripts.onnas(trained / "meta_cell.pt", path, "--eval_epochs", 1).succeeded()
    before = contents(path)
    complaint = scripts.tfml(path, *resume).complaint()
    assert str(path) in complaint
    assert "onnas.py" in complaint
    assert contents(path) == before


@pytest.mark.parametrize("flags", ["--init_channels 6", "--w_lr 0.04", "--warm_up_epochs 1", "--cells separate"])
def test_other_settings_are_not_resumed(scripts, tmp_path, trained, flags):
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    before = contents(path)
    assert flags.split()[0] in scripts.tfml(path, "--resume", *flags.split()).complaint()
    assert contents(path) == before


@pytest.mark.parametrize("garbage", ["", "{", "[]", "3", "null", "\0\0", '{"n": 3}', "[" * 100_000])
def test_garbage_in_the_settings_of_a_run(scripts, tmp_path, trained, garbage):
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    (path / "args.json").write_text(garbage)
    before = contents(path)
    scripts.tfml(path, "--resume").complaint()
    assert contents(path) == before


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_checkpoint_is_refused_by_name(scripts, tmp_path, trained, share):
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    content = (path / "checkpoint.pt").read_bytes()
    (path / "checkpoint.pt").write_bytes(content[: int(share * len(content))])
    before = contents(path)
    assert "checkpoint.pt" in scripts.tfml(path, "--resume").complaint()
    assert contents(path) == before


@pytest.mark.parametrize("spoil", ["no epochs", "epochs in words", "negative epochs", "one cell fewer"])
def test_nonsense_checkpoint_is_refused_by_name(scripts, tmp_path, trained, spoil):
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    values = torch.load(path / "checkpoint.pt", weights_only=True)
    match spoil:
        case "no epochs":
            del values["epochs"]
        case "epochs in words":
            values["epochs"] = "four"
        case "negative epochs":
            values["epochs"] = -4
        case "one cell fewer":
            values["state"]["cells"] = []
    torch.save(values, path / "checkpoint.pt")
    before = contents(path)
    assert "checkpoint.pt" in scripts.tfml(path, "--resume").complaint()
    assert contents(path) == before


@pytest.mark.parametrize("flags", ["--init_channels 6", "--n 4", "--cells separate", "--nodes 2"])
def test_checkpoint_of_another_run_is_refused_by_name(scripts, tmp_path, trained, flags):
    """As it says of its own settings it is sound, but it is not this run's."""
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    scripts.tfml(tmp_path / "other", "--meta_epochs", 0, *flags.split()).succeeded()
    shutil.copy(tmp_path / "other/checkpoint.pt", path)
    before = contents(path)
    assert "checkpoint.pt" in scripts.tfml(path, "--resume").complaint()
    assert contents(path) == before


@pytest.mark.parametrize("garbage", ["3\n", "[1]\n", "{}\n", '{"meta_epoch": "x"}\n', '{"meta_epo'])
def test_garbage_in_the_metrics_of_a_run(scripts, tmp_path, trained, garbage):
    """They are no part of the state: the run goes on, or the file is named."""
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    with (path / "metrics.jsonl").open("a") as file:
        file.write(garbage)
    finished = scripts.tfml(path, "--resume")
    if finished.status:
        assert "metrics.jsonl" in finished.complaint()
    else:
        assert_same_run(path, trained)


def test_full_disk(scripts, tiny_disk):
    path = tiny_disk / "run"
    flags = ("--eval_freq", 1000, "--eval_epochs", 1)
    pid = scripts.start("tfml.py", *scripts.tfml_flags(path, "--meta_epochs", 1000, *flags))
    wait_for(lambda: (path / "metrics.jsonl").exists() and rows(path / "metrics.jsonl"))
    ballast = fill(tiny_disk)
    finished = scripts.wait(pid)
    assert finished.status == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    assert "No space left on device" in finished.stderr.splitlines()[-1]
    before = contents(path)
    assert not list(path.glob("*.tmp"))
    # Still full.
    assert str(path) in scripts.tfml(path, "--resume", *flags).complaint()
    assert contents(path) == before
    # With space again, the run goes on.
    ballast.unlink()
    meta_epochs = torch.load(path / "checkpoint.pt", weights_only=True)["epochs"] + 1
    scripts.tfml(path, "--resume", "--meta_epochs", meta_epochs, *flags).succeeded()
    assert [row["meta_epoch"] for row in rows(path / "metrics.jsonl")] == list(range(meta_epochs))


def test_start_that_is_too_large_is_refused(scripts, trained, tmp_path):
    """Its numbers are finite, but the outputs of its network would not be."""
    values = torch.load(trained / "meta_cell.pt", weights_only=True)
    for tensor in values["stem"].values():
        tensor.fill_(3e38)
    torch.save(values, tmp_path / "large.pt")
    path = tmp_path / "run"
    complaint = scripts.tfml(path, "--meta_cell", tmp_path / "large.pt", "--meta_epochs", 1).complaint()
    assert "large.pt holds for 0.weight something else than" in complaint
    assert not path.exists()


def test_test_task_that_diverges_does_not_end_the_training(monkeypatch):
    """Its loss is None then: hours of training are not to be lost by it, and NaN is not JSON."""
    flags = replace(TfmlFlags(*(None,) * 7), test=MetaTestFlags(eval_epochs=2), tasks=TaskFlags())
    start = Start(None, None, SearchSettings(1, 1, 2, 0.1, 0.1), 0)
    figures = {"accuracy": 0.5, "accuracy_before": 0.2, "seconds": 1.0, "seconds_per_step": 1.0}
    found = [TaskRow(**figures, task=n, loss=loss, genotype={}, predictions=[]) for n, loss in enumerate((1.0, None))]
    monkeypatch.setattr(tfml, "search_task", lambda *_: found.pop(0))
    monkeypatch.setattr(Start, "unfold", lambda *_: None)
    numbers = iter([SimpleNamespace(number=0), SimpleNamespace(number=1)])
    monkeypatch.setattr(tfml, "episodes", lambda *_: numbers)
    metrics, first, _ = tfml.meta_test(Ranks(), start, None, flags)
    assert (metrics["test_accuracy"], metrics["test_accuracy_ci95"]) == (0.5, 0)
    assert metrics["test_loss"] is None
    assert first.task == 0


def test_help_names_every_flag_and_its_default(scripts):
    text = scripts.run("tfml.py", "--help").succeeded().stdout
    assert "--cell_weighting" in text
    assert "(default: 30000)" in text
    assert "None" not in text
